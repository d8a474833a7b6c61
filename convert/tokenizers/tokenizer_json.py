"""Hugging Face's tokenizer.json, written from what Meta's tokenizer files say.

Written as a stream, an entry a line: neither the text nor its object is ever whole in memory.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, BinaryIO

from llama_convert.convert.errors import UsageError
from llama_convert.convert.tokenizers.added import AddedToken, Vocabulary, added_tokens
from llama_convert.convert.tokenizers.byte_level import byte_text
from llama_convert.convert.tokenizers.pieces import piece_merges, user_defined_pattern
from llama_convert.convert.tokenizers.sentencepiece import SPACE, SentencePieceVocabulary
from llama_convert.convert.tokenizers.special_tokens import BEGIN
from llama_convert.convert.tokenizers.tiktoken import PATTERN, TiktokenVocabulary, merges

Json = dict[str, object]

BLOCK = 4096  # entries joined before they are written


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """What the file is made of. texts: every token's, by id. merges: pairs of ids, best first."""

    added: Sequence[AddedToken]
    steps: Json
    model: Json
    texts: Iterable[str]
    merges: Iterator[tuple[int, int]]


def write_tokenizer_json(
    target: Path | BinaryIO, vocabulary: Vocabulary, special: Sequence[str] = (), plain: Container[str] = ()
) -> None:
    """Write the tokenizer.json that gives the same ids as Meta's file.

    target: a path, or a binary file, which is written from where it stands and left open.
    special: names for the ids behind a tiktoken file's ranks, <|begin_of_text|> among them; not for
    SentencePiece models, which have their own. plain: those of them that are no special tokens.
    The text of a special token is read as that token, where Meta's code reads it as ordinary text. In a
    SentencePiece model with user-defined pieces, text that is a whole piece which no merges reach is that
    piece here and several there. Everything else is exact.
    Merges are "a b" strings: every version of `tokenizers`, and llama.cpp, reads these.
    Cost: for Llama 3 (6.7 MB, 280,147 merges) about 1 s and 50 MB of memory.
    Source: huggingface/transformers convert_slow_tokenizer.py, TikTokenConverter and LlamaConverter.
    """
    recipe = (
        _tiktoken(vocabulary, special, plain) if isinstance(vocabulary, TiktokenVocabulary) else _pieces(vocabulary)
    )
    if isinstance(target, Path):
        with target.open("wb") as file:
            _write(file, recipe)
    else:
        _write(target, recipe)


def _tiktoken(vocabulary: TiktokenVocabulary, special: Sequence[str], plain: Container[str]) -> _Recipe:
    added = added_tokens(vocabulary, special, plain)
    begin = next((token for token in added if token.text == BEGIN), None)
    if begin is None:
        raise UsageError(f"None of the special tokens is {BEGIN}, which every text starts with.")
    cut = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    return _Recipe(
        added=added,
        steps={
            "normalizer": None,
            "pre_tokenizer": _sequence("pretokenizers", cut, _byte_level(use_regex=False)),
            "post_processor": _sequence("processors", _byte_level(trim_offsets=False), _template(begin)),
            "decoder": _byte_level(),
        },
        model=_bpe(unknown=None, fuse_unknown=False, byte_fallback=False, ignore_merges=True),
        texts=map(byte_text, vocabulary.tokens),
        merges=merges(vocabulary),
    )


def _pieces(vocabulary: SentencePieceVocabulary) -> _Recipe:
    added = added_tokens(vocabulary)
    begin = next((token for token in added if token.id == vocabulary.begin), None)
    pattern = user_defined_pattern(vocabulary)
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return _Recipe(
        added=added,
        steps={
            "normalizer": _piece_normalizer(vocabulary),
            "pre_tokenizer": cut if pattern else None,
            "post_processor": _template(begin) if begin else None,
            "decoder": _piece_decoder(vocabulary),
        },
        model=_bpe(
            unknown=vocabulary.pieces[vocabulary.unknown].text,
            fuse_unknown=True,
            byte_fallback=vocabulary.byte_fallback,
            ignore_merges=pattern is not None,
        ),
        texts=(piece.text for piece in vocabulary.pieces),
        merges=piece_merges(vocabulary),
    )


def _piece_normalizer(vocabulary: SentencePieceVocabulary) -> Json:
    steps: list[Json] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if vocabulary.add_dummy_prefix:
        steps.insert(0, {"type": "Prepend", "prepend": SPACE})
    return _sequence("normalizers", *steps)


def _piece_decoder(vocabulary: SentencePieceVocabulary) -> Json:
    steps: list[Json] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if vocabulary.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return _sequence("decoders", *steps)


def _sequence(key: str, *steps: Json) -> Json:
    return {"type": "Sequence", key: list(steps)}


def _byte_level(*, trim_offsets: bool = True, use_regex: bool = True) -> Json:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": trim_offsets,
        "use_regex": use_regex,
    }


def _template(begin: AddedToken) -> Json:
    """Put the begin token before a text, and before both of a pair."""

    def started(name: str, kind: int) -> list[Json]:
        token: Json = {"SpecialToken": {"id": begin.text, "type_id": kind}}
        return [token, {"Sequence": {"id": name, "type_id": kind}}]

    return {
        "type": "TemplateProcessing",
        "single": started("A", 0),
        "pair": started("A", 0) + started("B", 1),
        "special_tokens": {begin.text: {"id": begin.text, "ids": [begin.id], "tokens": [begin.text]}},
    }


def _bpe(*, unknown: str | None, fuse_unknown: bool, byte_fallback: bool, ignore_merges: bool) -> Json:
    """The model without its vocabulary. `ignore_merges` only where it is on: tokenizers < 0.19 lacks it."""
    model: Json = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": fuse_unknown,
        "byte_fallback": byte_fallback,
    }
    return model | ({"ignore_merges": True} if ignore_merges else {})


def _write(file: BinaryIO, recipe: _Recipe) -> None:
    added = [{"id": token.id, **token.properties()} for token in recipe.added]
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **recipe.steps}
    quoted = [encode_basestring(text) for text in recipe.texts]  # json.dumps of a string, without its set-up
    file.write(f'{_json(head)[:-1]},\n"model": {_json(recipe.model)[:-1]},\n"vocab": {{'.encode())
    _write_entries(file, (f"{text}: {i}" for i, text in enumerate(quoted)))
    file.write(b'},\n"merges": [')
    _write_entries(file, (f"{quoted[left][:-1]} {quoted[right][1:]}" for left, right in recipe.merges))
    file.write(b"]}}\n")


def _write_entries(file: BinaryIO, entries: Iterator[str]) -> None:
    comma = "\n"
    while block := list(islice(entries, BLOCK)):
        file.write((comma + ",\n".join(block)).encode())
        comma = ",\n"


def write_document(target: Path, whole: Mapping[str, Any]) -> None:
    """Write a tokenizer.json that was read as an object: the same, with tokens and merges an entry a line."""
    model = whole["model"]
    settings = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    head = {key: value for key, value in whole.items() if key != "model"}
    with target.open("wb") as file:
        file.write(f'{_json(head)[:-1]}{"," if head else ""}\n"model": {_json(settings)[:-1]}'.encode())
        file.write(f'{"," if settings else ""}\n"vocab": {{'.encode())
        _write_entries(file, (f"{encode_basestring(text)}: {number}" for text, number in model["vocab"].items()))
        file.write(b'},\n"merges": [')
        _write_entries(file, map(_json, model["merges"]))
        file.write(b"]}}\n")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
