"""`demo`: the whole way on the embedded model, small enough for any machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from typer import Exit, Option

from llama_convert.cli.failures import DIFFERENT
from llama_convert.cli.output import Output
from llama_convert.convert.errors import UsageError

# A tiny Llama 3, trained on stories about llamas; Meta's own format, two model-parallel shards.
EMBEDDED = Path(__file__).parent / "embedded"
_PROMPT = "One clear night, Luna the llama"
_BEHIND = ' "'  # what stands behind its first sentence
_LENGTH = 40  # tokens; the sentence is shorter
_WIDTH = 11


def demo(
    target: Annotated[
        Path | None,
        Option(
            "--output", help="Keep the converted model in this folder (default: it is removed).", show_default=False
        ),
    ] = None,
) -> None:
    """Convert the embedded tiny model, prove the result, and let it speak from every format."""
    if target is not None:
        _run(target, Output())
        return
    with tempfile.TemporaryDirectory(prefix="llama-convert-") as folder:
        _run(Path(folder) / "llama-stories-hf", Output())


def _run(target: Path, output: Output) -> None:
    from llama_convert.cli.converting import carry_out
    from llama_convert.cli.plans import plan_text
    from llama_convert.cli.verifying import show_verification
    from llama_convert.convert import plan_conversion
    from llama_convert.verify import verify_levels

    plan = plan_conversion(EMBEDDED)
    output.result(f"$ llama-convert convert {EMBEDDED} {target} --dry-run\n{plan_text(plan)}\n")
    output.result(f"$ llama-convert convert {EMBEDDED} {target}")
    carry_out(plan, target, overwrite=False, check=True, output=output)
    output.result(f"\n$ llama-convert verify {EMBEDDED} {target}")
    report = show_verification(EMBEDDED, target, verify_levels(EMBEDDED, target), output)
    told = _sentences(target, output)
    if not report.ok or len(set(told)) != 1:
        raise Exit(DIFFERENT)


def _sentences(converted: Path, output: Output) -> list[str]:
    """What the model says, greedily, in every format that can hold it; each is run as it stands."""
    from llama_convert.convert.formats import FORMATS

    output.result("\nThe same sentence from every format, each run as it stands:")
    told = []
    with tempfile.TemporaryDirectory(prefix="llama-convert-") as folder:
        for form in FORMATS:
            try:
                place = _place(form.name, converted, Path(folder))
            except UsageError as error:
                output.result(f"{form.name:{_WIDTH}}({error.problems[0] if error.problems else error.summary})")
                continue
            told.append(_sentence(place))
            output.result(f"{form.name:{_WIDTH}}{told[-1]}")
    return told


def _place(name: str, converted: Path, folder: Path) -> Path:
    """Where the model lies in this format. Raises UsageError where the format cannot hold it."""
    from llama_convert.convert import convert_checkpoint, plan_conversion

    there = {"meta": EMBEDDED, "hf": converted}
    return (
        there[name] if name in there else convert_checkpoint(plan_conversion(EMBEDDED, to=name), folder / name).folder
    )


def _sentence(place: Path) -> str:
    from llama_convert.verify import load

    (answer,) = load(place, dtype="float32").generate([_PROMPT], max_new_tokens=_LENGTH, stops=[_BEHIND])
    return _PROMPT + answer.text
