"""Judges of vocabularies that lie in GGUF files and in llama2.c's tokenizer.bin: tokens, and merges or scores.

The programs these are made for are no Python libraries. Tokens and merges are run by `tokenizers`; tokens and
scores by the rule itself, which is short: merge the neighbours that make the piece with the highest score,
the leftmost of equals, until no two make a piece. Sources: llama.cpp src/llama-vocab.cpp, llama2.c run.c.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from llama_convert.convert.containers.gguf import read_gguf
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError
from llama_convert.verify.tokenizer_judges import PATTERN, Judge, marked_encoder, text_bytes, unreadable

_KEY = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_SPACE = "\u2581"
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
# Of llama2.c's vocabularies: the first three are the unknown, begin and end tokens, then come the bytes.
_LLAMA2C_CONTROL, _LLAMA2C_ORDINARY = 3, 259


def gguf_judge(path: Path) -> Judge:
    """The vocabulary in a GGUF file. Rows that only fill the embedding are no tokens.

    Raises CheckpointError where it is incomplete, or cannot be run.
    """
    values = read_gguf(byte_source(path)).plain()
    scored = values.get(f"{_KEY}model") == "llama"
    problems = list(_problems(values, scored=scored))
    if problems:
        raise CheckpointError(
            f"{path}: its vocabulary cannot be run", problems=problems, advice="Fetch or convert the model again."
        )
    return _by_scores(path, values) if scored else _by_merges(path, values)


def _problems(values: Mapping[str, Any], *, scored: bool) -> Iterator[str]:
    kinds = {"tokens": str, "token_type": int, **({"scores": float} if scored else {"merges": str})}
    found = {key: values.get(f"{_KEY}{key}") for key in kinds}
    wrong = [key for key, kind in kinds.items() if not _is_list(found[key], kind)]
    yield from (f"{_KEY}{key}: missing, or no list of {kinds[key].__name__}" for key in wrong)
    if not wrong:
        sizes = {key: len(entries or ()) for key, entries in found.items() if key != "merges"}
        if len({*sizes.values()}) > 1:
            yield ", ".join(f"{size:,} {key}" for key, size in sizes.items())
        pairs = zip(found["tokens"] or (), found["token_type"] or (), strict=False)
        yield from (f"{text!r} is no byte" for text, kind in pairs if kind == _BYTE and not _BYTE_PIECE.fullmatch(text))


def _is_list(found: object, kind: type) -> bool:
    return isinstance(found, (list, tuple)) and all(type(entry) is kind for entry in found)


def _by_merges(path: Path, values: Mapping[str, Any]) -> Judge:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens, kinds = values[f"{_KEY}tokens"], values[f"{_KEY}token_type"]
    ordinary = {text: number for number, text in enumerate(tokens) if kinds[number] == _NORMAL}
    special = {text: number for number, text in enumerate(tokens) if kinds[number] in (_CONTROL, _USER_DEFINED)}
    merges = [tuple(merge.split(" ", 1)) for merge in values[f"{_KEY}merges"]]
    try:
        tokenizer = Tokenizer(models.BPE(vocab=ordinary, merges=merges, ignore_merges=True))
    except Exception as error:  # the library raises no narrower class
        raise unreadable(path, "tokenizers", error) from error
    cut = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    begin = [values[f"{_KEY}bos_token_id"]] if f"{_KEY}bos_token_id" in values else []
    return Judge(
        library="tokenizers",
        path=path,
        tokens={number: text_bytes(text) for text, number in ordinary.items()}
        | {number: text.encode() for text, number in special.items()},
        special=special,
        encode=lambda texts: [begin + found.ids for found in tokenizer.encode_batch(list(texts))],
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        reads_names=True,
        encode_marked=marked_encoder(tokenizer),
    )


def _by_scores(path: Path, values: Mapping[str, Any]) -> Judge:
    tokens, kinds = values[f"{_KEY}tokens"], values[f"{_KEY}token_type"]
    pairs = zip(tokens, kinds, strict=True)
    plain = [text.replace(" ", _SPACE) if kind == _USER_DEFINED else text for text, kind in pairs]
    return _scored(path, plain, values[f"{_KEY}scores"], kinds, prefix=values.get(f"{_KEY}add_space_prefix", True))


# The score that run.c starts from when it looks for the best merge: a piece that has it is never made of others.
_NEVER = -1e10


def llama2c_judge(path: Path, rows: int) -> Judge:
    """The vocabulary in a tokenizer.bin, which does not say how many tokens it has."""
    data, position, texts, scores = path.read_bytes(), 4, [], []
    try:
        for _ in range(rows):
            score, length = struct.unpack_from("<fI", data, position)
            texts.append(data[position + 8 : position + 8 + length].decode().replace(" ", _SPACE))
            scores.append(score)
            position += 8 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise unreadable(path, f"run.c, for {rows:,} rows,", error) from error
    # How export.py writes the names of the begin and end tokens.
    texts[1:3] = [text.strip("\n") for text in texts[1:3]]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256
    kinds += [_CONTROL if score <= _NEVER else _NORMAL for score in scores[_LLAMA2C_ORDINARY:]]
    return _scored(path, texts, scores, kinds, prefix=True)


def _scored(path: Path, texts: Sequence[str], scores: Sequence[float], kinds: Sequence[int], *, prefix: bool) -> Judge:
    merged = {text: number for number, text in enumerate(texts) if kinds[number] == _NORMAL}
    entire = {text: number for number, text in enumerate(texts) if kinds[number] == _USER_DEFINED}
    single = {int(text[3:5], 16): number for number, text in enumerate(texts) if kinds[number] == _BYTE}
    special = {text: number for number, text in enumerate(texts) if kinds[number] in (_UNKNOWN, _CONTROL)}
    unknown = special.get("<unk>", 0)  # a control token where its kind is from tokenizer_config.json

    def ids(text: str) -> Iterator[int]:
        spaced = (" " if prefix and text else "") + text
        for piece in _cut(spaced.replace(" ", _SPACE), entire):
            if piece in entire:
                yield entire[piece]
                continue
            for found in _merge(piece, merged, scores):
                bytes_of = [single.get(byte, unknown) for byte in found.encode()] if single else [unknown]
                yield from [merged[found]] if found in merged else bytes_of

    begin = special.get("<s>", 1)
    return Judge(
        library="the rule of scores",
        path=path,
        tokens={number: text.encode() for number, text in enumerate(texts) if kinds[number] != _UNUSED},
        special=special,
        encode=lambda texts: [[begin, *ids(text)] for text in texts],
        decode=lambda numbers: _decoded(texts, kinds, numbers, prefix=prefix),
        pieces=True,
    )


def _cut(text: str, entire: Mapping[str, int]) -> Iterator[str]:
    """The text in user-defined pieces, the longest first, and what is between them."""
    start = position = 0
    longest = sorted(entire, key=len, reverse=True)
    while position < len(text):
        found = next((piece for piece in longest if text.startswith(piece, position)), None)
        if found is None:
            position += 1
            continue
        yield from [text[start:position]] if start < position else []
        yield found
        start = position = position + len(found)
    if start < len(text):
        yield text[start:]


def _merge(text: str, merged: Mapping[str, int], scores: Sequence[float]) -> list[str]:
    parts = list(text)
    while True:
        pairs = ((merged.get(left + right), place) for place, (left, right) in enumerate(pairwise(parts)))
        best = max(((scores[number], -place) for number, place in pairs if number is not None), default=None)
        if best is None:
            return parts
        place = -best[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def _decoded(texts: Sequence[str], kinds: Sequence[int], numbers: Sequence[int], *, prefix: bool) -> str:
    found = b"".join(
        bytes([int(texts[number][3:5], 16)]) if kinds[number] == _BYTE else texts[number].encode()
        for number in numbers
        if kinds[number] not in (_UNKNOWN, _CONTROL)
    )
    text = found.decode(errors="replace").replace(_SPACE, " ")
    return text.removeprefix(" ") if prefix else text
