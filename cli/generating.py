"""`generate`: what a model writes behind a text."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from llama_convert.cli import options
from llama_convert.cli.grouped import grouped
from llama_convert.cli.output import Output
from llama_convert.cli.speaking import Speaker, answer_json, figures, parse_sampling, peak_memory
from llama_convert.cli.verifying import take_large_pages
from llama_convert.cli.writing_options import Drawing, MaxNewTokens, Running, Stop
from llama_convert.convert.errors import UsageError

if TYPE_CHECKING:
    from llama_convert.verify import Answer, Llama, Sampling
    from llama_convert.verify.opened import Opened

_STDIN = "-"

ModelPath = Annotated[
    Path | None, Option("--model-path", metavar="SRC", help="Another name of SRC.", show_default=False)
]
Prompt = Annotated[
    list[str] | None,
    Option(
        "--prompt",
        metavar="TEXT",
        help="Text to go on from; may be repeated. - reads it from standard input.",
        show_default=False,
    ),
]
PromptFile = Annotated[
    list[Path] | None,
    Option(
        "--prompt-file",
        metavar="FILE",
        help="File with such a text, without the last line's end; may be repeated.",
        show_default=False,
    ),
]
Temperatures = Annotated[
    str | None,
    Option(
        "--temperatures",
        metavar="T,T,...",
        help="The same at each of these temperatures, one answer under the other.",
        show_default=False,
    ),
]
Returned = Annotated[int, Option("--num-return-sequences", min=1, help="Answers to each prompt.")]
BatchSize = Annotated[int, Option("--batch-size", min=1, help="Answers to write at the same time.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What to write. samplings: one, or those of a sweep over temperatures."""

    prompts: Sequence[str]
    samplings: Sequence[Sampling]
    max_new_tokens: int
    stops: Sequence[str]
    returned: int
    batch_size: int

    @property
    def alone(self) -> bool:
        """One answer: it is shown while it is written."""
        return len(self.prompts) * len(self.samplings) * self.returned == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """An answer, the text that it goes on from, and how it was drawn."""

    prompt: str
    sampling: Sampling
    answer: Answer


@grouped
def generate(
    source: options.MaybeSource = None,
    *,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    max_new_tokens: MaxNewTokens = 256,
    drawing: Drawing,
    temperatures: Temperatures = None,
    num_return_sequences: Returned = 1,
    batch_size: BatchSize = 8,
    stop: Stop = None,
    running: Running,
    model_path: ModelPath = None,
    llama_version: options.LlamaVersion = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write on from a text, with a checkpoint of any format as it stands."""
    take_large_pages()
    output = Output(json=json, quiet=quiet)
    sampling = parse_sampling(drawing)
    speaker = Speaker(source=_one_source(source, model_path), running=running, llama_version=llama_version)
    wish = _Wish(
        prompts=list(_prompts(prompt or [], prompt_file or [])),
        samplings=_samplings(sampling, temperatures, drawing),
        max_new_tokens=max_new_tokens,
        stops=stop or [],
        returned=num_return_sequences,
        batch_size=batch_size,
    )
    _check(wish)
    opened = speaker.open(output)
    _check_fit(opened, wish)
    llama = speaker.load(opened, output)
    start = time.perf_counter()
    told = _answers(llama, wish, output)
    output.say(figures([one.answer for one in told], time.perf_counter() - start, llama.model.device))
    output.data(_json(speaker.source, llama, told))


def _one_source(source: Path | None, model_path: Path | None) -> Path:
    given = [path for path in (source, model_path) if path is not None]
    if len(given) != 1:
        raise UsageError(
            "SRC is missing" if not given else f"SRC {source} and --model-path {model_path}: which one?",
            advice="Give one folder or file with a checkpoint.",
        )
    return given[0]


def _prompts(texts: Sequence[str], files: Sequence[Path]) -> Iterator[str]:
    """Texts first, then files; standard input where it is named, or where nothing is and it is no terminal."""
    if not texts and not files:
        if sys.stdin.isatty():
            raise UsageError("No prompt", advice="Give --prompt TEXT, --prompt-file FILE, or text on standard input.")
        texts = [_STDIN]
    for text in texts:
        yield _from_stdin() if text == _STDIN else _written(text)
    for path in files:
        yield _from_stdin() if str(path) == _STDIN else _decoded(path.read_bytes(), str(path))


def _from_stdin() -> str:
    return _decoded(sys.stdin.buffer.read(), "standard input")


def _written(text: str) -> str:
    """What stands on the command line; Python has bytes that are no UTF-8 as halves of characters there."""
    _decoded(text.encode(errors="surrogateescape"), "--prompt")
    return text


def _decoded(content: bytes, place: str) -> str:
    try:
        return _without_end(content.decode())
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}: no text in UTF-8", advice="Give a text.") from error


def _without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _samplings(sampling: Sampling, temperatures: str | None, drawing: Drawing) -> list[Sampling]:
    from llama_convert.verify.sampling import check_sampling

    if temperatures is None:
        return [sampling]
    if drawing.greedy or drawing.temperature is not None:
        other = "--greedy" if drawing.greedy else f"--temperature {drawing.temperature:g}"
        raise UsageError(f"--temperatures and {other}: which?", advice="Leave one of them out.")
    try:
        values = [float(text) for text in temperatures.split(",")]
    except ValueError as error:
        raise UsageError(f"--temperatures {temperatures}: no list of numbers", advice="Such as 0.1,0.5,1.") from error
    found = [replace(sampling, temperature=value) for value in values]
    for one in found:
        check_sampling(one)
    return found


def _check_fit(opened: Opened, wish: _Wish) -> None:
    """Whether the prompts fit into the model, and it into memory; before any weight is read."""
    from llama_convert.verify.generate import check_prompts
    from llama_convert.verify.memory import check_memory

    config = opened.checkpoint.config
    encoded = [opened.encode(text) for text in wish.prompts]
    check_prompts(config, encoded)
    positions = min(max(map(len, encoded)) + wish.max_new_tokens, config.context)
    sequences = min(wish.batch_size, len(wish.prompts) * wish.returned)
    check_memory(opened.checkpoint, opened.holding, sequences, positions)


def _check(wish: _Wish) -> None:
    from llama_convert.verify.llama import check_request

    for sampling in wish.samplings:
        check_request(sampling, wish.stops, wish.max_new_tokens, wish.returned, wish.batch_size)


def _answers(llama: Llama, wish: _Wish, output: Output) -> list[_Told]:
    """All answers, printed as they come where there is only one."""
    if wish.alone:
        output.lead_in(wish.prompts[0])
    told: list[_Told] = []
    for sampling in wish.samplings:
        answers = llama.generate(
            wish.prompts,
            max_new_tokens=wish.max_new_tokens,
            sampling=sampling,
            stops=wish.stops,
            num_return_sequences=wish.returned,
            batch_size=wish.batch_size,
            hear=lambda _, piece: output.piece(piece) if wish.alone else None,
        )
        for number, answer in enumerate(answers):
            one = _Told(prompt=wish.prompts[number // wish.returned], sampling=sampling, answer=answer)
            if not wish.alone:
                output.result(_label(wish, one, number) + one.prompt + answer.text + "\n")
            told.append(one)
    if wish.alone:
        output.result("")
    return told


def _label(wish: _Wish, one: _Told, number: int) -> str:
    """A line above an answer that says which it is."""
    parts = [f"temperature {one.sampling.temperature:g}"] if len(wish.samplings) > 1 else []
    parts += [f"prompt {number // wish.returned + 1}"] if len(wish.prompts) > 1 else []
    parts += [f"answer {number % wish.returned + 1}"] if wish.returned > 1 else []
    return f"--- {', '.join(parts)}\n"


def _json(source: Path, llama: Llama, told: Sequence[_Told]) -> dict[str, Any]:
    return {
        "ok": True,
        "source": str(source),
        "device": llama.model.device,
        "dtype": str(llama.model.dtype).removeprefix("torch."),
        "weights_bytes": llama.model.nbytes,
        "peak_memory_bytes": peak_memory(llama.model.device),
        "answers": [
            {"prompt": one.prompt, "temperature": one.sampling.temperature, **answer_json(one.answer)} for one in told
        ],
    }
