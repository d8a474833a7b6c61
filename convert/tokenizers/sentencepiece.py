"""Llama 1's and 2's tokenizer.model: a SentencePiece model, read without the sentencepiece library.

Field numbers and defaults: google/sentencepiece src/sentencepiece_model.proto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import isfinite
from pathlib import Path

from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.tokenizers.problems import capped, read_bytes
from llama_convert.convert.tokenizers.wire import Field, WireError, fields

SPACE = "\u2581"  # ▁, which stands for a space in every piece
BYTE_PIECES = tuple(f"<0x{value:02X}>" for value in range(256))
MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "character"}
BPE = 2


class PieceKind(Enum):
    """What a piece is for; the values are those of the file."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One entry of the vocabulary; its id is its index. score: the higher, the sooner it is merged."""

    text: str
    score: float
    kind: PieceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePieceVocabulary:
    """A BPE model of SentencePiece that leaves the text as it is but for its spaces, which become ▁.

    add_dummy_prefix: text that is not empty gets one more space in front.
    byte_fallback: a character without a piece becomes the pieces of its UTF-8 bytes, not the unknown piece.
    unknown, begin, end, pad: ids; None where the model has no such piece.
    """

    pieces: tuple[Piece, ...]
    add_dummy_prefix: bool
    byte_fallback: bool
    unknown: int
    begin: int | None
    end: int | None
    pad: int | None

    def ids(self, *kinds: PieceKind) -> dict[str, int]:
        """Text and id of every piece of these kinds, or of all pieces, in the order of the ids."""
        return {piece.text: i for i, piece in enumerate(self.pieces) if not kinds or piece.kind in kinds}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What trainer_spec and normalizer_spec say; the values here are the defaults of the .proto file."""

    model_type: int = 1
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    unknown_piece: str = "<unk>"
    begin_piece: str = "<s>"
    end_piece: str = "</s>"
    pad_piece: str = "<pad>"
    rules: bytes = b""
    rules_name: str = ""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


TRAINER_FIELDS = {
    3: ("model_type", int),
    24: ("whitespace_as_suffix", bool),
    35: ("byte_fallback", bool),
    45: ("unknown_piece", str),
    46: ("begin_piece", str),
    47: ("end_piece", str),
    48: ("pad_piece", str),
}
NORMALIZER_FIELDS = {
    1: ("rules_name", str),
    2: ("rules", bytes),
    3: ("add_dummy_prefix", bool),
    4: ("remove_extra_whitespaces", bool),
    5: ("escape_whitespaces", bool),
}
_Values = Mapping[int, tuple[str, type]]


def read_sentencepiece(path: Path) -> SentencePieceVocabulary:
    """The vocabulary of a SentencePiece model file.

    Raises CheckpointError where the file is damaged, and where the model is one whose ids our tokenizer.json
    could not reproduce: no BPE, text rewritten before it is cut, unused pieces. Every such finding is listed.
    Cost: 0.2 s for the 32,000 pieces of Llama 2.
    """
    try:
        pieces, settings = _parse(read_bytes(path))
    except WireError as error:
        raise CheckpointError(
            f"{path}: the SentencePiece model is damaged at byte {error.offset}: {error}.",
            advice="Download tokenizer.model again and compare its size with the one on the server.",
        ) from error
    _refuse(path, "is damaged", damage(pieces, settings.byte_fallback), "Download tokenizer.model again.")
    _refuse(
        path,
        "cannot be written as tokenizer.json",
        _not_reproducible(pieces, settings),
        "Is this the tokenizer.model of a Llama 1, Llama 2 or Code Llama, as Meta released it?",
    )
    return _vocabulary(pieces, settings)


def _vocabulary(pieces: tuple[Piece, ...], settings: _Settings) -> SentencePieceVocabulary:
    control = {piece.text: i for i, piece in enumerate(pieces) if piece.kind is PieceKind.CONTROL}
    return SentencePieceVocabulary(
        pieces=pieces,
        add_dummy_prefix=settings.add_dummy_prefix,
        byte_fallback=settings.byte_fallback,
        unknown=next(i for i, piece in enumerate(pieces) if piece.kind is PieceKind.UNKNOWN),
        begin=control.get(settings.begin_piece),
        end=control.get(settings.end_piece),
        pad=control.get(settings.pad_piece),
    )


def _parse(data: bytes) -> tuple[tuple[Piece, ...], _Settings]:
    pieces = []
    settings = _Settings()
    for field in fields(data):
        if field.number == 1:
            pieces.append(_piece(field))
        elif field.number == 2:
            settings = _updated(settings, field, TRAINER_FIELDS)
        elif field.number == 3:
            settings = _updated(settings, field, NORMALIZER_FIELDS)
    return tuple(pieces), settings


def _piece(message: Field) -> Piece:
    text, score, kind = "", 0.0, PieceKind.NORMAL
    try:
        for field in fields(message.content()):
            if field.number == 1:
                text = _text(field)
            elif field.number == 2:
                score = field.float32()
            elif field.number == 3:
                kind = _kind(field)
    except WireError as error:
        raise WireError(f"piece: {error}", message.offset) from error
    return Piece(text=text, score=score, kind=kind)


def _kind(field: Field) -> PieceKind:
    value = field.integer()
    try:
        return PieceKind(value)
    except ValueError as error:
        raise WireError(f"there is no piece type {value}", field.offset) from error


def _updated(settings: _Settings, message: Field, known: _Values) -> _Settings:
    found: dict[str, object] = {}
    for field in fields(message.content()):
        if field.number in known:
            name, wanted = known[field.number]
            found[name] = _value(field, wanted)
    return replace(settings, **found)  # type: ignore[arg-type]


def _value(field: Field, wanted: type) -> object:
    if wanted is str:
        return _text(field)
    return field.content() if wanted is bytes else wanted(field.integer())


def _text(field: Field) -> str:
    try:
        return field.content().decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"field {field.number} is not UTF-8", field.offset) from error


def _refuse(path: Path, what: str, problems: list[str], advice: str) -> None:
    if problems:
        summary = f"{path}: the SentencePiece model {what} ({counted(len(problems), 'problem')})."
        raise CheckpointError(summary, problems=capped(problems), advice=advice)


def damage(pieces: Sequence[Piece], byte_fallback: bool) -> list[str]:
    """What SentencePiece itself would not load; one sentence for every finding."""
    problems = [] if pieces else ["it has no pieces"]
    seen: dict[str, int] = {}
    for i, piece in enumerate(pieces):
        if not piece.text:
            problems.append(f"piece {i} is empty")
        elif piece.text in seen:
            problems.append(f"piece {i}, {piece.text!r}, is also piece {seen[piece.text]}")
        if not isfinite(piece.score):
            problems.append(f"piece {i}, {piece.text!r}, has the score {piece.score}")
        seen.setdefault(piece.text, i)
    unknown = sum(piece.kind is PieceKind.UNKNOWN for piece in pieces)
    if unknown != 1:
        problems.append(f"it has {unknown} unknown pieces, not 1")
    return problems + _byte_damage(pieces, byte_fallback)


def _byte_damage(pieces: Sequence[Piece], byte_fallback: bool) -> list[str]:
    found = {piece.text for piece in pieces if piece.kind is PieceKind.BYTE}
    wanted = set(BYTE_PIECES) if byte_fallback else set()
    if found == wanted:
        return []
    return [f"it has {len(found & wanted)} of the {len(wanted)} byte pieces, and {len(found - wanted)} others"]


def _not_reproducible(pieces: tuple[Piece, ...], settings: _Settings) -> list[str]:
    """What a tokenizer.json with BPE merges does in another way than SentencePiece."""
    name = MODEL_TYPES.get(settings.model_type, f"number {settings.model_type}")
    unused = [piece.text for piece in pieces if piece.kind is PieceKind.UNUSED]
    findings = {
        f"its model type is {name}, not BPE": settings.model_type != BPE,
        f"it normalises text (rules {settings.rules_name!r}, {len(settings.rules)} bytes)": bool(settings.rules),
        "it removes extra spaces": settings.remove_extra_whitespaces,
        "it does not write spaces as ▁": not settings.escape_whitespaces,
        "it adds its space at the end of the text": settings.whitespace_as_suffix,
        f"it has {len(unused)} unused pieces, the first is {unused[:1]}": bool(unused),
    }
    return [finding for finding, holds in findings.items() if holds] + spaced(pieces)


def spaced(pieces: Sequence[Piece]) -> list[str]:
    """One sentence where pieces contain a space, which never meets them in a text: there it is ▁; else none."""
    found = [piece.text for piece in pieces if " " in piece.text]
    return [f"{len(found)} of its pieces contain a space, the first is {found[:1]}"] if found else []
