"""What a vocabulary has: its tokens one by one, some of them by chance, and how a text is split."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.errors import UsageError
from llama_convert.verify.opened import open_tokenizer
from llama_convert.verify.speech import end_tokens
from llama_convert.verify.tokenizer_judges import Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A checkpoint's tokens. rows: of its embedding; those behind the last token have none."""

    checkpoint: Checkpoint
    judge: Judge

    @property
    def rows(self) -> int:
        """Rows of the embedding."""
        return self.checkpoint.config.vocab_size

    @property
    def begin(self) -> tuple[int, ...]:
        """What is put in front of every text."""
        return tuple(self.judge.encode([""])[0])

    @property
    def ends(self) -> tuple[int, ...]:
        """Where the model has no more to say."""
        return tuple(sorted(end_tokens(self.checkpoint, self.judge)))

    def called(self, name: Callable[[Path], Path]) -> Vocabulary:
        """The same with other names for its paths."""
        return Vocabulary(
            checkpoint=replace(self.checkpoint, path=name(self.checkpoint.path)),
            judge=replace(self.judge, path=name(self.judge.path)),
        )

    def token(self, number: int) -> Token | None:
        """The token of that id; None for a row without one."""
        if number not in self.judge.tokens:
            return None
        content = self.judge.bytes_of(number)
        return Token(id=number, content=content, special=number in self.judge.special.values())

    def split(self, text: str) -> list[Token]:
        """The tokens of a text, what is put in front included."""
        return [found for number in self.judge.encode([text])[0] if (found := self.token(number))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """content: the bytes of a text that it stands for; of a special token its name."""

    id: int
    content: bytes
    special: bool

    @property
    def text(self) -> str:
        """As a string in quotes; of what is no text by itself the bytes."""
        try:
            return repr(self.content.decode())
        except UnicodeDecodeError:
            return repr(self.content)

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "id": self.id,
            "text": self.content.decode(errors="replace"),
            "bytes": self.content.hex(),
            "special": self.special,
        }


def open_vocabulary(source: Path, tokenizer: Path | None = None, llama_version: str | None = None) -> Vocabulary:
    """The tokens of the checkpoint in a folder or file. tokenizer: as in `open_source`, whose errors it raises."""
    checkpoint, judge = open_tokenizer(source, tokenizer, llama_version)
    return Vocabulary(checkpoint=checkpoint, judge=judge)


def check_ids(numbers: Sequence[int], vocabularies: Sequence[Vocabulary]) -> None:
    """UsageError with every id that none of them has."""
    rows = max(vocabulary.rows for vocabulary in vocabularies)
    wrong = [f"no token {number}" for number in numbers if not 0 <= number < rows]
    if wrong:
        raise UsageError("Ids that are outside the vocabulary", problems=wrong, advice=f"Ids go from 0 to {rows - 1}.")


def sampled(vocabulary: Vocabulary, count: int, seed: int) -> list[int]:
    """So many ids of ordinary tokens, in their order; the same seed gives the same."""
    ordinary = sorted(vocabulary.judge.tokens.keys() - set(vocabulary.judge.special.values()))
    return sorted(random.Random(seed).sample(ordinary, min(count, len(ordinary))))
