"""Llama 1's and 2's tokenizer.model, written: a SentencePiece model without the sentencepiece library.

Field numbers and defaults: google/sentencepiece src/sentencepiece_model.proto.
"""

from __future__ import annotations

from pathlib import Path

from llama_convert.convert.tokenizers.sentencepiece import (
    BPE,
    Piece,
    PieceKind,
    SentencePieceVocabulary,
    read_sentencepiece,
)
from llama_convert.convert.tokenizers.wire import content_field, float32_field, integer_field

NO_PIECE = -1


def write_sentencepiece(path: Path, vocabulary: SentencePieceVocabulary) -> None:
    """Write the tokenizer.model of a Llama 1 or 2: the same ids as before in the sentencepiece library.

    Pieces, scores and kinds are exact (scores are floats of 4 bytes, as they were). Of the two other messages
    only what decides about ids is written: how the model was trained, and its self-test, are not kept.
    Cost: 0.1 s for the 32,000 pieces of Llama 2.
    """
    pieces = (content_field(1, _piece(piece)) for piece in vocabulary.pieces)
    trainer = content_field(2, _trainer_spec(vocabulary))
    normalizer = content_field(3, _normalizer_spec(vocabulary))
    path.write_bytes(b"".join((*pieces, trainer, normalizer)))


def extend_sentencepiece(target: Path, *, source: Path, vocabulary: SentencePieceVocabulary) -> None:
    """Write the model of `source` with the vocabulary's further pieces behind its own.

    vocabulary: the source's, with more pieces, and perhaps another one to pad with. Nothing in the file is
    touched: a reader of protocol buffers joins what comes later with what was said before.
    """
    found = read_sentencepiece(source)
    more = (content_field(1, _piece(piece)) for piece in vocabulary.pieces[len(found.pieces) :])
    pad = b"" if vocabulary.pad == found.pad else _pad_fields(vocabulary)
    trainer = content_field(2, integer_field(4, len(vocabulary.pieces)) + pad)
    target.write_bytes(b"".join((source.read_bytes(), *more, trainer)))


def _pad_fields(vocabulary: SentencePieceVocabulary) -> bytes:
    name = _name(vocabulary, vocabulary.pad, "<pad>").encode()
    return integer_field(43, NO_PIECE if vocabulary.pad is None else vocabulary.pad) + content_field(48, name)


def _piece(piece: Piece) -> bytes:
    kind = b"" if piece.kind is PieceKind.NORMAL else integer_field(3, piece.kind.value)
    return content_field(1, piece.text.encode()) + float32_field(2, piece.score) + kind


def _trainer_spec(vocabulary: SentencePieceVocabulary) -> bytes:
    """The library finds the four pieces with a task by their names; their ids are for other readers."""
    special = (
        (vocabulary.unknown, 40, 45, "<unk>"),
        (vocabulary.begin, 41, 46, "<s>"),
        (vocabulary.end, 42, 47, "</s>"),
        (vocabulary.pad, 43, 48, "<pad>"),
    )
    numbers = (integer_field(number, NO_PIECE if i is None else i) for i, number, _, _ in special)
    names = (content_field(number, _name(vocabulary, i, default).encode()) for i, _, number, default in special)
    sizes = (
        integer_field(3, BPE),
        integer_field(4, len(vocabulary.pieces)),
        integer_field(35, vocabulary.byte_fallback),
    )
    return b"".join((*sizes, *numbers, *names))


def _name(vocabulary: SentencePieceVocabulary, i: int | None, default: str) -> str:
    """The text of piece i. Without one a name that is no control piece: an absent name would be the default."""
    if i is not None:
        return vocabulary.pieces[i].text
    if default not in vocabulary.ids(PieceKind.CONTROL):
        return default
    return vocabulary.pieces[vocabulary.unknown].text


def _normalizer_spec(vocabulary: SentencePieceVocabulary) -> bytes:
    return b"".join(
        (
            content_field(1, b"identity"),
            content_field(2, b""),
            integer_field(3, vocabulary.add_dummy_prefix),
            integer_field(4, False),
            integer_field(5, True),
        )
    )
