"""Added tokens: those that are found in raw text before anything else is done to it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from llama_convert.convert.tokenizers.sentencepiece import PieceKind, SentencePieceVocabulary
from llama_convert.convert.tokenizers.tiktoken import TiktokenVocabulary

Vocabulary = TiktokenVocabulary | SentencePieceVocabulary

TURN_MARKERS = ("<step>",)  # special whatever kind the file gives it: the end of a turn of Code Llama 70B Instruct


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedVocabulary:
    """A vocabulary whole, as a file gives it that holds the special tokens too.

    special: names of the ids behind a tiktoken vocabulary's ranks; empty for SentencePiece. plain: those among
    them that are part of a text's meaning: found in raw text like the others, but kept when decoding.
    """

    vocabulary: Vocabulary
    special: tuple[str, ...]
    plain: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Number of tokens."""
        ordinary = self.vocabulary
        return len(ordinary.tokens if isinstance(ordinary, TiktokenVocabulary) else ordinary.pieces) + len(self.special)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """An added token and its id. special: skipped when decoding."""

    id: int
    text: str
    special: bool = True

    def properties(self) -> dict[str, object]:
        """The token as `added_tokens_decoder` in tokenizer_config.json has it; tokenizer.json adds the id."""
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return {"content": self.text, **plain, "special": self.special}


def added_tokens(
    vocabulary: Vocabulary, special: Sequence[str] = (), plain: Container[str] = ()
) -> tuple[AddedToken, ...]:
    """The added tokens of a vocabulary, in the order of their ids.

    special: names for the ids behind the ranks of a tiktoken file, which has none of its own; plain: those that
    are not special in truth. Not looked at for a SentencePiece model: there they are its control and unknown
    pieces, and what is user-defined is cut out later than added tokens are.
    """
    if isinstance(vocabulary, TiktokenVocabulary):
        first = len(vocabulary.tokens)
        return tuple(AddedToken(id=first + i, text=name, special=name not in plain) for i, name in enumerate(special))
    return tuple(
        AddedToken(id=i, text=piece.text)
        for i, piece in enumerate(vocabulary.pieces)
        if piece.kind in (PieceKind.UNKNOWN, PieceKind.CONTROL) or piece.text in TURN_MARKERS
    )
