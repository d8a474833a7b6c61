"""`chat`: several turns with a chat model."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from llama_convert.cli import options
from llama_convert.cli.grouped import grouped
from llama_convert.cli.output import Output, complain
from llama_convert.cli.speaking import Speaker, answer_json, figures, parse_sampling
from llama_convert.cli.verifying import take_large_pages
from llama_convert.cli.writing_options import Drawing, MaxNewTokens, Running, Stop
from llama_convert.convert.errors import UsageError

if TYPE_CHECKING:
    from llama_convert.verify import Answer, Llama, Past, Sampling
    from llama_convert.verify.chat_formats import Message
    from llama_convert.verify.chat_speaking import Dialect
    from llama_convert.verify.opened import Opened

_PROMPT = "> "


class _Stopped(KeyboardInterrupt):
    """Ctrl-C while the model speaks: it is to be silent, nothing more."""


@dataclass(slots=True, kw_only=True)
class _Chat:
    """A conversation on its way."""

    llama: Llama
    dialect: Dialect
    sampling: Sampling
    max_new_tokens: int
    stops: list[str]
    output: Output
    messages: list[Message]
    past: Past
    answers: list[Answer] = field(default_factory=list)

    def ask(self, text: str) -> None:
        """What the model answers to this, printed while it is written."""
        asked: list[Message] = [*self.messages, {"role": "user", "content": text}]
        ids = self.dialect.ids(asked)
        _check_length(len(ids), self.llama.model.config.context)
        heard: list[str] = []
        try:
            with _stoppable():
                self.answers += self.llama.generate(
                    [ids],
                    max_new_tokens=self.max_new_tokens,
                    sampling=self.sampling,
                    stops=self.stops,
                    hear=lambda _, piece: self._hear(piece, heard),
                    past=self.past,
                )
            note = _NOTES.get(self.answers[-1].ended, "")
        except _Stopped:
            note = "stopped"
        self.output.piece("\n")
        if note:
            self.output.say(f"({note})")
        self.messages = [*asked, {"role": "assistant", "content": "".join(heard)}]

    def _hear(self, piece: str, heard: list[str]) -> None:
        heard.append(piece)
        self.output.piece(piece)


_NOTES = {"length": "--max-new-tokens are written", "context": "the model's context is full: begin a new chat"}


@grouped
def chat(
    source: options.Source,
    *,
    system: Annotated[
        str | None, Option("--system", metavar="TEXT", help="What the model is told first.", show_default=False)
    ] = None,
    template: Annotated[
        str | None,
        Option(
            "--template",
            metavar="NAME",
            help="Format to chat in, where the files do not say: llama-3, llama-2 (Code Llama too), code-llama-70b.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 1024,
    drawing: Drawing,
    stop: Stop = None,
    running: Running,
    llama_version: options.LlamaVersion = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Chat with a model, one line a turn. Ctrl-C ends an answer, at the prompt the chat; so does the end of input."""
    take_large_pages()
    from llama_convert.verify import Past

    output = Output(json=json, quiet=quiet)
    sampling = parse_sampling(drawing)
    speaker = Speaker(source=source, running=running, llama_version=llama_version)
    opened, dialect = _open(speaker, template, system, max_new_tokens, output)
    talk = _Chat(
        llama=speaker.load(opened, output),
        dialect=dialect,
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        stops=stop or [],
        output=output,
        messages=[{"role": "system", "content": system}] if system is not None else [],
        past=Past(),
    )
    output.say(f"chatting in {dialect.name}")
    for line in _lines(output):
        with _another_try():
            talk.ask(line)
    if talk.answers:
        seconds = sum(answer.seconds for answer in talk.answers)
        output.say(figures(talk.answers, seconds, talk.llama.model.device))
    output.data(_json(speaker, talk))


def _open(
    speaker: Speaker, template: str | None, system: str | None, length: int, output: Output
) -> tuple[Opened, Dialect]:
    """All but the weights, and everything seen to fit: the format, the system message, the memory."""
    from llama_convert.verify.chat_speaking import find_dialect
    from llama_convert.verify.memory import check_memory

    opened = speaker.open(output)
    dialect = find_dialect(opened, template)
    context = opened.checkpoint.config.context
    first: list[Message] = [{"role": "system", "content": system}] if system is not None else []
    told = len(dialect.ids([*first, {"role": "user", "content": "Hi"}]))
    _check_length(told, context)
    check_memory(opened.checkpoint, opened.holding, positions=min(told + length, context))
    if dialect.end is not None and not speaker.ends:
        opened = replace(opened, ends=opened.ends | {dialect.end})
    return opened, dialect


def _check_length(tokens: int, context: int) -> None:
    if tokens >= context:
        raise UsageError(
            f"The conversation has {tokens:,} tokens, and the model's context of {context:,} has no room for an answer",
            advice="Say it in fewer words, or begin a new chat.",
        )


@contextmanager
def _another_try() -> Iterator[None]:
    """Within, what is wrong with a message is told to whoever sits there to type another; a script ends by it."""
    try:
        yield
    except UsageError as error:
        if not sys.stdin.isatty():
            raise
        complain(str(error))


def _lines(output: Output) -> Iterator[str]:
    """What the user says, line by line, until the end of input; lines with nothing on them say nothing."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 (input then knows the arrow keys, and what was said before)

        typed = iter(lambda: input(_PROMPT), None)
        try:
            yield from (line for line in typed if line.strip())
        except EOFError:
            output.say("")
        return
    for content in sys.stdin.buffer:
        try:
            line = content.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UsageError("standard input: no text in UTF-8", advice="Give a text.") from error
        if line.strip():
            yield line


@contextmanager
def _stoppable() -> Iterator[None]:
    """Within, Ctrl-C raises _Stopped; a kill is still an interruption of the whole."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _json(speaker: Speaker, talk: _Chat) -> dict[str, Any]:
    return {
        "ok": True,
        "source": str(speaker.source),
        "format": talk.dialect.name,
        "messages": talk.messages,
        "answers": [answer_json(answer) for answer in talk.answers],
    }
