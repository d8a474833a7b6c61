"""Several prompts answered in step: tokens become text, and each answer ends by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llama_convert.verify.generate import write
from llama_convert.verify.model import Model
from llama_convert.verify.past import Past
from llama_convert.verify.sampling import Sampling
from llama_convert.verify.speech import Transcript
from llama_convert.verify.tokenizer_judges import Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was written behind one prompt.

    ids: the new tokens, an end token included. ended: "end token", "stop", "length" or "context".
    first_token, seconds: time to the first new token, and to the last.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    ended: str
    first_token: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens behind the first one, which waits for the prompt; 0 where there are none."""
        return (len(self.ids) - 1) / (self.seconds - self.first_token) if len(self.ids) > 1 else 0.0


@dataclass(slots=True, kw_only=True)
class Answering:
    """A batch of prompts on its way.

    first: the number of the first among those drawn with the same seed. past: as `write` has it.
    """

    model: Model
    judge: Judge
    ends: frozenset[int]
    compiled: bool
    prompts: list[list[int]]
    first: int
    length: int
    sampling: Sampling
    stops: Sequence[str]
    past: Past | None = None
    _written: list[_Written] = field(init=False, default_factory=list)

    def pieces(self) -> Iterator[tuple[int, str]]:
        """Pieces of text as they become certain, each with the number of its prompt in the batch."""
        self._written = [_Written(Transcript(self.judge, prompt, self.stops)) for prompt in self.prompts]
        start = time.perf_counter()
        rounds = write(
            self.model,
            self.prompts,
            self.sampling,
            self.length,
            lambda number, _: bool(self._written[number].ended),
            first=self.first,
            compiled=self.compiled,
            past=self.past,
        )
        for tokens in rounds:
            now = time.perf_counter() - start
            for number, token in enumerate(tokens):
                if token is not None and (piece := self._written[number].take(token, now, self.ends)):
                    yield number, piece
        for number, written in enumerate(self._written):
            if piece := written.transcript.finish():
                yield number, piece

    def answers(self) -> list[Answer]:
        """What has been written."""
        return [
            Answer(
                prompt=tuple(prompt),
                ids=tuple(written.ids),
                text=written.transcript.text,
                ended=written.ended or ("length" if len(written.ids) == self.length else "context"),
                first_token=written.first_token,
                seconds=written.seconds,
            )
            for prompt, written in zip(self.prompts, self._written, strict=True)
        ]


@dataclass(slots=True)
class _Written:
    """One answer so far. ended: why it is over, "" while it is not."""

    transcript: Transcript
    ids: list[int] = field(default_factory=list)
    ended: str = ""
    first_token: float = 0.0
    seconds: float = 0.0

    def take(self, token: int, now: float, ends: frozenset[int]) -> str:
        """The text that the token makes certain."""
        if not self.ids:
            self.first_token = now
        self.seconds = now
        self.ids.append(token)
        if token in ends:
            self.ended = "end token"
            return ""
        piece = self.transcript.add(token)
        if self.transcript.stopped:
            self.ended = "stop"
        return piece
