"""Llama 3's tokenizer.model: one token and its rank a line, the token in base64."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.tokenizers.problems import capped, read_bytes

LLAMA_3_RANKS = 128_000
LLAMA_4_RANKS = 200_000
LONGEST_RANK = 9  # digits; a longer number is no rank but damage

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is cut before bytes are merged. Not in the file: code of Meta's llama3/tokenizer.py (pat_str)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TiktokenVocabulary:
    """The ordinary tokens, in the order of their ids; the special tokens behind them are in no file.

    tokens: raw bytes, not always whole characters. The id of a token is its index, and its rank: of two
    merges that are possible the one that gives the lower rank is made first.
    """

    tokens: tuple[bytes, ...]

    def ranks(self) -> dict[bytes, int]:
        """The id of each token; a new dict on every call."""
        return {token: rank for rank, token in enumerate(self.tokens)}


def read_tiktoken(path: Path) -> TiktokenVocabulary:
    """The tokens of a tiktoken file, whole: ranks 0, 1, 2 ... and every single byte among them.

    Lines may be in any order; empty ones are skipped. Raises CheckpointError with every damaged line: no
    base64, no rank, a token or a rank twice, ranks or bytes that are missing. A file that was cut exactly
    between two lines looks whole: compare the number of tokens with the rows of the embedding.
    Cost: 0.2 s and 30 MB for the 128,000 lines of Llama 3.
    """
    reading = _Reading(lines={}, tokens={}, problems=[])
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        if line.strip():
            _read_line(reading, number, line)
    problems = reading.problems + _missing(reading)
    if problems:
        raise CheckpointError(
            f"{path}: the tokenizer file is damaged ({counted(len(problems), 'problem')}).",
            problems=capped(problems),
            advice="Download tokenizer.model again and compare its size with the one on the server.",
        )
    return TiktokenVocabulary(tokens=tuple(reading.tokens[rank] for rank in range(len(reading.tokens))))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    lines: dict[bytes, int]
    tokens: dict[int, bytes]
    problems: list[str]


def _read_line(reading: _Reading, number: int, line: bytes) -> None:
    try:
        token, rank = _parse(line)
    except ValueError as error:
        reading.problems.append(f"line {number}: {error}: {line[:60]!r}")
        return
    if token in reading.lines:
        reading.problems.append(f"line {number}: token {token!r} is also on line {reading.lines[token]}")
    elif rank in reading.tokens:
        first = reading.lines[reading.tokens[rank]]
        reading.problems.append(f"line {number}: rank {rank} is also on line {first}")
    else:
        reading.lines[token] = number
        reading.tokens[rank] = token


def _parse(line: bytes) -> tuple[bytes, int]:
    parts = line.split()
    if len(parts) != 2:
        raise ValueError("not a token and a rank")
    if not parts[1].isdigit() or len(parts[1]) > LONGEST_RANK:
        raise ValueError("the rank is not a number")
    try:
        token = b64decode(parts[0], validate=True)
    except binascii.Error as error:
        raise ValueError("the token is not base64") from error
    if not token:
        raise ValueError("the token is empty")
    return token, int(parts[1])


def _missing(reading: _Reading) -> list[str]:
    """The ranks and the single bytes that no line gives; only the first of them by name."""
    found = []
    count = max(reading.tokens, default=-1) + 1
    absent = count - len(reading.tokens)
    if absent:
        first = next(rank for rank in range(count) if rank not in reading.tokens)
        found.append(f"{absent} ranks below {count} are missing, the first is {first}")
    return found + missing_bytes(reading.lines)


def missing_bytes(tokens: Container[bytes]) -> list[str]:
    """One sentence where not every single byte is a token, so that some text has no tokens; else none."""
    absent = [value for value in range(256) if bytes([value]) not in tokens]
    if not absent:
        return []
    return [f"{len(absent)} of the 256 single bytes are missing, the first is {absent[0]:#04x}"]


def write_tiktoken(path: Path, vocabulary: TiktokenVocabulary) -> None:
    """Write a tokenizer.model as Meta's is, byte for byte: lines of base64, space, rank, in the order of the ranks.

    The names of special tokens have no place in it. Cost: 0.1 s and 10 MB for Llama 3 (2.2 MB).
    """
    lines = [b"%b %d\n" % (b64encode(token), rank) for rank, token in enumerate(vocabulary.tokens)]
    path.write_bytes(b"".join(lines))


def merges(vocabulary: TiktokenVocabulary) -> Iterator[tuple[int, int]]:
    """Every way to put a token together from two others, as (left id, right id), best first.

    A tiktoken file has ranks only; a BPE model that goes by a list of merges does the same where the list
    has all splits of a token, in the order of the whole's rank, then of the left part's, then the right's.
    280,147 for Llama 3. Merges do not reach every token, so the model must look whole words up before it
    merges (`ignore_merges`): without that, 588 tokens of Llama 3 that are text come out as several.
    Lazy; 0.4 s for Llama 3.
    Source: huggingface/transformers convert_slow_tokenizer.py, TikTokenConverter.
    """
    rank = vocabulary.ranks().get
    for token in vocabulary.tokens:
        splits = [
            (left, right)
            for cut in range(1, len(token))
            if (left := rank(token[:cut])) is not None and (right := rank(token[cut:])) is not None
        ]
        splits.sort()
        yield from splits
