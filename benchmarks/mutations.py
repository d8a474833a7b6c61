"""The prover, proven: `python -m benchmarks.mutations`.

Makes every known mistake of tests/verify/mistakes.py in an otherwise right conversion and prints which levels of
`verify` see it, by how much, and what it is called: a miss is a level that should have failed, or another name.
Then right conversions of random shapes, by the real converter into every format: a false alarm is one that fails.
The tables are Markdown; the exit status is 1 after any miss or false alarm.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from llama_convert.convert import (
    Checkpoint,
    ConvertError,
    Request,
    UsageError,
    convert_checkpoint,
    open_checkpoint,
    plan_conversion,
)
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.formats import FORMATS
from llama_convert.verify import Verdict, verify
from llama_convert.verify.compare import check_logits
from llama_convert.verify.devices import choose, exact
from llama_convert.verify.diagnosis import diagnose
from llama_convert.verify.structure import check_structure
from llama_convert.verify.tensors import check_tensors, compare_tensors
from tests.checkpoints import MetaModel, random_model, write_meta
from tests.verify.conftest import write_huggingface
from tests.verify.mistakes import MISTAKES, MODELS, Mistake

_LEVELS = ("structure", "tensors", "logits")
_HEAD = "| model | mistake | structure | tensors | logits: times the gate | named |\n|---|---|---|---|---|---|"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--right", type=int, default=200, help="right conversions of random shapes")
    parser.add_argument("--only", default="", help="mistakes with this in their name")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # these models are so small that a second thread only waits
    with TemporaryDirectory() as folder:
        missed = _mistakes(Path(folder), arguments.only)
        alarms = _right(Path(folder), arguments.right, arguments.seed)
    sys.exit(1 if missed or alarms else 0)


# ---- mistakes ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What verify made of one mistake. margin: the logits' difference in gates; None where they cannot be compared."""

    failed: frozenset[str]
    margin: float | None
    causes: tuple[str, ...]

    def missed(self, mistake: Mistake) -> list[str]:
        """What should have been seen and was not."""
        levels = [f"{level} passed" for level in sorted(mistake.levels - self.failed)]
        surplus = [f"{level} failed" for level in sorted(self.failed - mistake.levels - mistake.may)]
        return levels + surplus + ([] if set(self.causes) == {mistake.cause} else ["another name"])


def _mistakes(folder: Path, only: str) -> int:
    """Print the table; the number of misses."""
    print(_HEAD)
    missed = []
    for name, mistake in MISTAKES.items():
        if only in name:
            seen = _seen(folder, mistake)
            print(_row(mistake, seen), flush=True)
            missed += [f"{name}: {problem}" for problem in seen.missed(mistake)]
    count = sum(only in name for name in MISTAKES)
    print(f"\n{count} mistakes, {len(missed)} missed\n")
    print("".join(f"* {line}\n" for line in missed))
    return len(missed)


def _seen(folder: Path, mistake: Mistake) -> Seen:
    case = MODELS[mistake.model]
    meta = folder / case.name
    if not meta.exists():
        case.write(meta)
    with TemporaryDirectory(dir=folder) as made:
        other = write_huggingface(Path(made) / "B", meta, case.model(), mistake.make)
        return _judged(open_checkpoint(meta, case.version), open_checkpoint(other))


def _judged(a: Checkpoint, b: Checkpoint) -> Seen:
    levels = (check_structure(a, b), check_tensors(a, b))
    failed = {level.name for level in levels if level.verdict is Verdict.FAILED}
    margin = None
    with exact():
        result, parting = check_logits(a, b, choose("cpu"))
    if result.gate is not None:
        margin = float(result.measures["difference"]) / result.gate
    if result.verdict is Verdict.FAILED:
        failed.add(result.name)
    causes = tuple(one.cause for one in diagnose(a, b, list(compare_tensors(a, b)), parting))
    return Seen(failed=frozenset(failed), margin=margin, causes=causes)


def _row(mistake: Mistake, seen: Seen) -> str:
    margin = (
        "not comparable"
        if seen.margin is None
        else f"{seen.margin:,.2g}"
        if seen.margin < 10
        else f"{seen.margin:,.0f}"
    )
    structure, tensors, logits = ("fails" if level in seen.failed else "passes" for level in _LEVELS)
    names = ", ".join(dict.fromkeys(seen.causes)) or "nothing"
    return f"| {mistake.model} | {mistake.name} | {structure} | {tensors} | {logits}, {margin} | {names} |"


# ---- right conversions ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A right conversion to be: a model, how its source is cut, what it is turned into."""

    model: MetaModel
    shards: int
    to: str
    request: Request

    def __str__(self) -> str:
        params, request = self.model.params, self.request
        sizes = f"{params['n_layers']} layers of {params['dim']}, {self.model.heads} heads on {self.model.kv_heads}"
        wanted = [asked.label for asked in (request.dtype, request.quantize) if asked is not None]
        return f"Llama {self.model.version}, {sizes}, {self.shards} shards, to {' '.join([self.to, *wanted])}"


def _right(folder: Path, count: int, seed: int) -> int:
    """Convert and verify; the number of false alarms."""
    source, formats, alarms, refused = random.Random(seed), Counter[str](), [], 0
    while sum(formats.values()) < count:
        drawn = _drawn(source)
        with TemporaryDirectory(dir=folder) as made:
            found = list(_alarms(drawn, Path(made)))
        if found == ["refused"]:
            refused += 1
        else:
            formats[drawn.to] += 1
            alarms += [f"{drawn}: {problem}" for problem in found]
    each = ", ".join(f"{name} {number}" for name, number in sorted(formats.items()))
    print(f"{count} right conversions ({each}; {refused} refused as the format cannot hold them): "
          f"{len(alarms)} false alarms\n")  # fmt: skip
    print("".join(f"* {line}\n" for line in alarms))
    return len(alarms)


def _drawn(source: random.Random) -> Drawn:
    to = source.choice([form.name for form in FORMATS])
    version = "2" if to == "llama2c" else source.choice(["1", "2", "code", "3", "3.1", "3.2", "3.3"])
    grouped = version not in ("1", "2", "code")
    shards = source.choice([1, 1, 2, 4])
    kv_heads = shards * source.randint(1, 2)
    heads = kv_heads * (source.choice([1, 2, 3]) if grouped else 1)
    model = random_model(
        version,
        seed=source.randrange(10**6),
        layers=source.randint(1, 4),
        heads=heads,
        kv_heads=kv_heads if grouped else None,
        dim=heads * source.choice([8, 16, 32]),
        tied=source.choice([False, True, "copy"]) if version == "3.2" else None,
        dtype=torch.float32 if to == "llama2c" else source.choice([None, None, torch.float32, torch.float16]),
    )
    return Drawn(model=model, shards=shards, to=to, request=_request(source, to, model.params["dim"]))


def _request(source: random.Random, to: str, dim: int) -> Request:
    """As it is, cast, or quantised where the format can and rows are whole runs of codes."""
    if to == "gguf" and dim % 32 == 0 and source.random() < 0.5:
        return Request(quantize=source.choice([DType.Q8_0, DType.Q4_0]))
    if to == "llama2c":
        return Request()
    return Request(dtype=source.choice([None, None, None, DType.BFLOAT16, DType.FLOAT16, DType.FLOAT32]))


def _alarms(drawn: Drawn, folder: Path) -> Iterator[str]:
    """What verify holds against the conversion; `refused` where there is none."""
    model = drawn.model
    source = write_meta(model, folder / "A", shards=drawn.shards, tokenizer=model.tokenizer)
    try:
        plan = plan_conversion(source, to=drawn.to, request=drawn.request, llama_version=model.version)
    except UsageError:
        yield "refused"
        return
    made = convert_checkpoint(plan, folder / "B").folder
    try:
        for level in verify(source, made, llama_version=model.version, device="cpu").levels:
            if level.verdict is Verdict.FAILED:
                yield f"{level.name}: {'; '.join(level.findings[:3])}"
    except ConvertError as error:
        yield f"verify stops: {error.summary}"
    a, b = open_checkpoint(source, model.version), open_checkpoint(made, model.version)
    for found in diagnose(a, b, list(compare_tensors(a, b)), None):
        yield f"diagnosed as {found.cause}: {found.sentence}"


if __name__ == "__main__":
    main()
