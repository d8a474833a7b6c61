"""Judges of vocabularies that lie in GGUF files and in llama2.c's tokenizer.bin: tokens, and merges or scores.

The programs these are made for are no Python libraries. Tokens and merges are run by `tokenizers`; tokens and
scores by the rule itself, which is short: merge the neighbours that make the piece with the highest score,
the leftmost of equals, until no two make a piece. Sources: llama.cpp src/llama-vocab.cpp, llama2.c run.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from llama_convert.convert.containers.gguf import read_gguf
from llama_convert.convert.containers.slices import LocalFile
from llama_convert.verify.tokenizer_judges import PATTERN, Judge, text_bytes

_KEY = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_SPACE = "\u2581"
# Of llama2.c's vocabularies: the first three are the unknown, begin and end tokens, then come the bytes.
_LLAMA2C_CONTROL, _LLAMA2C_ORDINARY = 3, 259


def gguf_judge(path: Path) -> Judge:
    """The vocabulary in a GGUF file. Rows that only fill the embedding are no tokens."""
    values = read_gguf(LocalFile(path)).plain()
    return _by_scores(path, values) if values.get(f"{_KEY}model") == "llama" else _by_merges(path, values)


def _by_merges(path: Path, values: Mapping[str, Any]) -> Judge:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens, kinds = values[f"{_KEY}tokens"], values[f"{_KEY}token_type"]
    ordinary = {text: number for number, text in enumerate(tokens) if kinds[number] == _NORMAL}
    special = {text: number for number, text in enumerate(tokens) if kinds[number] in (_CONTROL, _USER_DEFINED)}
    merges = [tuple(merge.split(" ", 1)) for merge in values[f"{_KEY}merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=ordinary, merges=merges, ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    begin = [values[f"{_KEY}bos_token_id"]]
    return Judge(
        library="tokenizers",
        path=path,
        tokens={number: text_bytes(text) for text, number in ordinary.items()}
        | {number: text.encode() for text, number in special.items()},
        special=special,
        encode=lambda texts: [begin + found.ids for found in tokenizer.encode_batch(list(texts))],
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
    )


def _by_scores(path: Path, values: Mapping[str, Any]) -> Judge:
    tokens, kinds = values[f"{_KEY}tokens"], values[f"{_KEY}token_type"]
    pairs = zip(tokens, kinds, strict=True)
    plain = [text.replace(" ", _SPACE) if kind == _USER_DEFINED else text for text, kind in pairs]
    return _scored(path, plain, values[f"{_KEY}scores"], kinds, prefix=values.get(f"{_KEY}add_space_prefix", True))


def llama2c_judge(path: Path, rows: int) -> Judge:
    """The vocabulary in a tokenizer.bin, which does not say how many tokens it has."""
    data, position, texts, scores = path.read_bytes(), 4, [], []
    for _ in range(rows):
        score, length = struct.unpack_from("<fI", data, position)
        texts.append(data[position + 8 : position + 8 + length].decode().replace(" ", _SPACE))
        scores.append(score)
        position += 8 + length
    # How export.py writes the names of the begin and end tokens.
    texts[1:3] = [text.strip("\n") for text in texts[1:3]]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256 + [_NORMAL] * (rows - _LLAMA2C_ORDINARY)
    return _scored(path, texts, scores, kinds, prefix=True)


def _scored(path: Path, texts: Sequence[str], scores: Sequence[float], kinds: Sequence[int], *, prefix: bool) -> Judge:
    merged = {text: number for number, text in enumerate(texts) if kinds[number] == _NORMAL}
    whole = {text: number for number, text in enumerate(texts) if kinds[number] == _USER_DEFINED}
    single = {int(text[3:5], 16): number for number, text in enumerate(texts) if kinds[number] == _BYTE}
    special = {text: number for number, text in enumerate(texts) if kinds[number] in (_UNKNOWN, _CONTROL)}
    unknown = kinds.index(_UNKNOWN)

    def ids(text: str) -> Iterator[int]:
        spaced = (" " if prefix and text else "") + text
        for piece in _cut(spaced.replace(" ", _SPACE), whole):
            if piece in whole:
                yield whole[piece]
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
    )


def _cut(text: str, whole: Mapping[str, int]) -> Iterator[str]:
    """The text in user-defined pieces, the longest first, and what is between them."""
    start = position = 0
    longest = sorted(whole, key=len, reverse=True)
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
