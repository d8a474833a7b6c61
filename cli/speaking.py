"""What `generate` and `chat` do alike: options to requests, a model loaded, figures in the end."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_convert.cli.output import Output, gigabytes
from llama_convert.cli.sources import local
from llama_convert.cli.writing_options import Drawing, Running
from llama_convert.convert.errors import UsageError, counted

if TYPE_CHECKING:
    from llama_convert.convert.containers.slices import DType
    from llama_convert.verify import Answer, Llama, Sampling
    from llama_convert.verify.opened import Opened

# ru_maxrss is in kilobytes, but for Apple.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Which model to open, and how."""

    source: Path
    running: Running
    llama_version: str | None

    @property
    def ends(self) -> Sequence[str]:
        """Ids and names of the tokens at which it ends; none for the model's own."""
        return self.running.eos or []

    def open(self, output: Output) -> Opened:
        """All but the weights; a repository is fetched, once the options are seen to be right. Raises UsageError."""
        from llama_convert.verify.opened import check_options, open_source

        device, tokenizer = self.running.device, self.running.tokenizer_path
        dtype, quantise = _types(self.running)
        check_options(device=device, dtype=dtype, quantise=quantise, tokenizer=tokenizer)
        return open_source(
            local(self.source, output).path,
            device=device,
            dtype=dtype,
            quantise=quantise,
            tokenizer=tokenizer,
            ends=self.ends,
            llama_version=self.llama_version,
        )

    def load(self, opened: Opened, output: Output) -> Llama:
        """The weights as well, with a progress bar."""
        from llama_convert.convert.readers import reading
        from llama_convert.verify.llama import load_opened

        total = sum(piece.nbytes for parts in opened.checkpoint.parts.values() for piece in parts.pieces)
        start = time.perf_counter()
        with reading(opened.checkpoint.path), output.progress(total, self.source.name) as update:
            found = load_opened(opened, compile=self.running.compile_model, on_progress=update)
        held = f"{str(found.model.dtype).removeprefix('torch.')} on {found.model.device}"
        output.say(f"{self.source}: {held}, loaded in {time.perf_counter() - start:.1f} s")
        return found


def _types(running: Running) -> tuple[str | None, DType | None]:
    """What to compute in, and what to hold matrices in; UsageError where the options contradict each other."""
    from llama_convert.convert.containers.slices import DType

    quantised = {dtype.label: dtype for dtype in (DType.Q4_0, DType.Q8_0)}
    plain = {dtype.label: dtype.label for dtype in (DType.BFLOAT16, DType.FLOAT32)}
    encoding, computed = running.quantization_encoding, running.dtype
    if encoding is not None and encoding not in quantised | plain:
        raise UsageError(
            f"--quantization-encoding {encoding}: there is no such",
            advice=f"Choose {', '.join([*quantised, *plain])}.",
        )
    if encoding in plain and computed not in (None, encoding):
        raise UsageError(
            f"--quantization-encoding {encoding} and --dtype {computed}: which one?",
            advice="Leave one of them out.",
        )
    return computed or plain.get(encoding or ""), quantised.get(encoding or "")


def parse_sampling(drawing: Drawing) -> Sampling:
    """How tokens are drawn. UsageError for --greedy with what draws, and for values that no sampling has."""
    from llama_convert.verify.sampling import GREEDY, Sampling, check_sampling

    options = asdict(drawing)
    greedy = options.pop("greedy")
    given = {name: value for name, value in options.items() if value is not None}
    if greedy and given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"--greedy and {names}: draw or not?", advice="Leave one of them out.")
    if not given:
        return GREEDY
    found = Sampling(**given)
    check_sampling(found)
    return found


def peak_memory(device: str) -> int:
    """The most bytes that were in use: on a GPU there, else by this process, files it looked into included."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def figures(answers: Sequence[Answer], seconds: float, device: str) -> str:
    """Speed and memory of these answers, in one line."""
    tokens, memory = sum(len(answer.ids) for answer in answers), f"memory {gigabytes(peak_memory(device))}"
    first = f"first token after {min((answer.first_token for answer in answers), default=0.0):.2f} s"
    if len(answers) == 1:
        (answer,) = answers
        speed = f"{answer.tokens_per_second:.1f} tokens per second"
        return f"{counted(tokens, 'token')}, {speed}, {first}, {memory}; ended by {_ENDED[answer.ended]}"
    speed = f"{tokens / seconds:.1f} tokens per second together"
    return f"{counted(len(answers), 'answer')}, {counted(tokens, 'token')}, {speed}, {first}, {memory}"


_ENDED = {
    "end token": "an end token",
    "stop": "a stop text",
    "length": "--max-new-tokens",
    "context": "the model's context, which is full",
}


def answer_json(answer: Answer) -> dict[str, Any]:
    """One answer as plain data."""
    return {
        "prompt_ids": list(answer.prompt),
        "ids": list(answer.ids),
        "text": answer.text,
        "ended": answer.ended,
        "first_token_seconds": answer.first_token,
        "seconds": answer.seconds,
        "tokens_per_second": answer.tokens_per_second,
    }
