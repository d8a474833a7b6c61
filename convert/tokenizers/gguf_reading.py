"""The `tokenizer.ggml.*` values of a GGUF file, proven to be what Meta's tokenizer files say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.tokenizers.added import NamedVocabulary
from llama_convert.convert.tokenizers.byte_level import token_bytes
from llama_convert.convert.tokenizers.gguf_vocabulary import (
    ADD_SPACE,
    BEGIN_ID,
    END_ID,
    MERGES,
    MODEL,
    PAD_ID,
    PIECES_MODEL,
    PIECES_PRE,
    PRE,
    RANKS_MODEL,
    RANKS_PRE,
    SCORES,
    TOKEN_TYPE,
    TOKENS,
    UNKNOWN_ID,
    filler,
)
from llama_convert.convert.tokenizers.merge_lists import merge_differences, merge_texts
from llama_convert.convert.tokenizers.problems import capped
from llama_convert.convert.tokenizers.sentencepiece import SPACE, Piece, PieceKind, SentencePieceVocabulary, damage
from llama_convert.convert.tokenizers.special_tokens import is_metas
from llama_convert.convert.tokenizers.tiktoken import TiktokenVocabulary, merges, missing_bytes

# llama.cpp cuts text by Llama 3's pattern under all of these. "smaug-bpe" is the name its converter finds for
# Llama 3's own tokenizer in a folder whose tokenizer.json does not put the begin token before a text.
LLAMA_3_PRES = (RANKS_PRE, "llama3", "llama-v3", "smaug-bpe")
FILLING = (PieceKind.UNUSED, PieceKind.UNKNOWN, PieceKind.USER_DEFINED)  # the latter two in files of 2024 and before
ADDED = (PieceKind.CONTROL, PieceKind.USER_DEFINED)
ADDED_SCORE = -1000.0  # llama.cpp's converter gives it to every added token, whatever the model says
KINDS = {kind.value: kind for kind in PieceKind}


def read_gguf_vocabulary(path: Path, values: Mapping[str, Any]) -> NamedVocabulary:
    """The vocabulary in the head of a GGUF file, without the `[PAD...]` tokens behind the last.

    path: of the file, for the messages. values: its keys and values as plain Python data; others than
    `tokenizer.ggml.*` are not looked at.
    Proven for Llama 3's kind: tokens are bytes, every single byte among them, with the special tokens behind
    them; the merges are those that follow from the ids. For SentencePiece, where a GGUF file has no merges:
    scores are numbers, not all the same, and the pieces are such as the sentencepiece library would load.
    Raises CheckpointError with every finding: another model or pre-tokenizer is called by its name.
    Cost: 0.6 s and 40 MB for Llama 3.
    """
    model, pre = values.get(MODEL), values.get(PRE)
    if model == RANKS_MODEL:
        _refuse(path, [] if pre in LLAMA_3_PRES else [f"its pre-tokenizer is {pre!r}, wanted {RANKS_PRE!r}"])
        return _ranks(path, values)
    if model == PIECES_MODEL:
        _refuse(path, [] if pre in (None, PIECES_PRE) else [f"its pre-tokenizer is {pre!r}, wanted {PIECES_PRE!r}"])
        return _pieces(path, values)
    raise CheckpointError(
        f"{path}: not the tokenizer of a Llama: its {MODEL} is {model!r}, wanted {RANKS_MODEL!r} or {PIECES_MODEL!r}.",
        advice="Is the model in this file a Llama?",
    )


def _refuse(path: Path, problems: Sequence[str]) -> None:
    if problems:
        raise CheckpointError(
            f"{path}: the tokenizer in the file is not that of a Llama ({counted(len(problems), 'problem')}).",
            problems=capped(problems),
            advice="Download the file again, or convert its model once more, from the tokenizer that came with it.",
        )


def _list(values: Mapping[str, Any], key: str, wanted: type) -> list[str]:
    """What is wrong with a value that must be a list; nothing where it is one."""
    found = values.get(key)
    if isinstance(found, Sequence) and not isinstance(found, str) and all(type(entry) is wanted for entry in found):
        return []
    return [f"{key} is missing" if found is None else f"{key} is no list of {wanted.__name__}"]


def _tokens_and_kinds(
    path: Path, values: Mapping[str, Any], other: str, wanted: type
) -> tuple[list[str], list[PieceKind]]:
    """Every token with its kind, without the fillers. other: a list that must be there too, of `wanted`."""
    problems = [*_list(values, TOKENS, str), *_list(values, TOKEN_TYPE, int), *_list(values, other, wanted)]
    _refuse(path, problems)
    texts, numbers = list(values[TOKENS]), list(values[TOKEN_TYPE])
    if len(texts) != len(numbers):
        problems.append(f"it has {len(texts):,} tokens and {len(numbers):,} token types")
    problems += [f"there is no token type {number}" for number in sorted({*numbers} - {*KINDS})]
    _refuse(path, problems)
    kinds = [KINDS[number] for number in numbers]
    while texts and texts[-1] == filler(len(texts) - 1) and kinds[-1] in FILLING:
        texts.pop()
        kinds.pop()
    return texts, kinds


def _ranks(path: Path, values: Mapping[str, Any]) -> NamedVocabulary:
    texts, kinds = _tokens_and_kinds(path, values, MERGES, str)
    count = next((i for i, kind in enumerate(kinds) if kind in ADDED), len(kinds))
    special = tuple(texts[count:])
    problems = [
        f"token {i}, {text!r}, is {kind.name.lower()}, wanted {'normal' if i < count else 'control'}"
        for i, (text, kind) in enumerate(zip(texts, kinds, strict=True))
        if not (kind is PieceKind.NORMAL if i < count else kind in ADDED)
    ]
    if len(set(special)) < len(special):
        problems.append(f"{len(special) - len(set(special))} special tokens have the name of another")
    tokens: list[bytes] = []
    for i, text in enumerate(texts[:count]):
        try:
            tokens.append(token_bytes(text))
        except ValueError as error:
            problems.append(f"token {i}: {error}")
    vocabulary = TiktokenVocabulary(tokens=tuple(tokens))
    _refuse(path, problems + _rank_problems(vocabulary))
    _refuse(path, merge_differences(list(values[MERGES]), merge_texts(texts, merges(vocabulary))))
    names = (text for text, kind in zip(texts, kinds, strict=True) if kind is PieceKind.USER_DEFINED)
    plain = frozenset(name for name in names if not is_metas(name))  # some files have those as user-defined too
    return NamedVocabulary(vocabulary=vocabulary, special=special, plain=plain)


def _rank_problems(vocabulary: TiktokenVocabulary) -> list[str]:
    found = vocabulary.ranks()
    twice = len(vocabulary.tokens) - len(found)
    return ([f"{twice} tokens are there twice"] if twice else []) + missing_bytes(found)


def _pieces(path: Path, values: Mapping[str, Any]) -> NamedVocabulary:
    texts, kinds = _tokens_and_kinds(path, values, SCORES, float)
    scores = list(values[SCORES])
    if len(scores) != len(values[TOKENS]):
        _refuse(path, [f"it has {len(values[TOKENS]):,} tokens and {len(scores):,} scores"])
    unknown = _id(values, UNKNOWN_ID, 0)
    if PieceKind.UNKNOWN not in kinds and unknown < len(kinds) and kinds[unknown] in ADDED:
        kinds[unknown] = PieceKind.UNKNOWN  # so do converters that took the kinds from tokenizer_config.json
    pieces = tuple(map(_piece, texts, scores, kinds))
    byte_fallback = PieceKind.BYTE in kinds
    _refuse(path, damage(pieces, byte_fallback) + _piece_problems(pieces))
    vocabulary = SentencePieceVocabulary(
        pieces=pieces,
        add_dummy_prefix=bool(values.get(ADD_SPACE, True)),
        byte_fallback=byte_fallback,
        unknown=kinds.index(PieceKind.UNKNOWN),
        begin=_control(kinds, _id(values, BEGIN_ID, 1)),
        end=_control(kinds, _id(values, END_ID, 2)),
        pad=_control(kinds, _id(values, PAD_ID, len(kinds))),
    )
    return NamedVocabulary(vocabulary=vocabulary, special=())


def _piece(text: str, score: float, kind: PieceKind) -> Piece:
    """A piece with its own score again, and with ▁ again where it is user-defined."""
    plain = score if kind is PieceKind.NORMAL or score != ADDED_SCORE else 0.0
    return Piece(text=text.replace(" ", SPACE) if kind is PieceKind.USER_DEFINED else text, score=plain, kind=kind)


def _piece_problems(pieces: Sequence[Piece]) -> list[str]:
    normal = [piece.score for piece in pieces if piece.kind is PieceKind.NORMAL]
    unused = sum(piece.kind is PieceKind.UNUSED for piece in pieces)
    problems = [f"{unused} of its pieces are unused, and no filler behind the last"] if unused else []
    if len(normal) > 1 and len(set(normal)) == 1:
        problems.append(f"all its pieces have the score {normal[0]}: it was converted without tokenizer.model")
    return problems


def _id(values: Mapping[str, Any], key: str, default: int) -> int:
    found = values.get(key, default)
    return found if type(found) is int and found >= 0 else default


def _control(kinds: Sequence[PieceKind], i: int) -> int | None:
    return i if i < len(kinds) and kinds[i] is PieceKind.CONTROL else None
