"""Changes of the vocabulary, as data: more tokens, more or fewer rows, a pad token. A checkpoint carries its change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Init(Enum):
    """What a new row of the embedding or of the output head is."""

    MEAN = "mean"
    ZERO = "zero"
    COPY = "copy"
    NORMAL = "normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token that the tokenizer is to have. special: never part of a text's meaning, skipped when decoding."""

    id: int
    text: str
    special: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRows:
    """How rows behind the last old one are made. source: the row to copy. seed: of NORMAL."""

    init: Init
    source: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of a vocabulary.

    rows: of embedding and head afterwards; rows below the old number keep their bytes. tokens: new ones, by rising
    id. pad: the id to pad with; None leaves what the files say. embedding, head: what new rows are; a tied head is
    the embedding. why: the choice in a sentence, for the user.
    """

    rows: int
    tokens: tuple[NewToken, ...]
    pad: int | None
    embedding: NewRows
    head: NewRows
    why: str
