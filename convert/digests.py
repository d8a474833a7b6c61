"""Digests of runs of bytes, as many as are wanted from one reading of each file."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

Span: TypeAlias = tuple[int, int]  # first byte, byte behind the last

CRC32, MD5, SHA256, GIT_SHA1 = "CRC-32", "MD5", "SHA-256", "git SHA-1"
_CHUNK = 1 << 20
# Bytes that one thread takes of a file when nothing wants the file in one piece.
_SHARE = 256 << 20
# zlib and hashlib let go of the interpreter, so several runs are really digested side by side.
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a file to be digested together. spans: in order, none touching another."""

    algorithm: str
    spans: tuple[Span, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all spans."""
        return sum(end - start for start, end in self.spans)


class Hasher(Protocol):
    """A digest in the making."""

    def update(self, data: memoryview, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """The digest of all so far, in hexadecimal."""

    def copy(self) -> Hasher:
        """Another one that has taken in the same."""


class _Crc32:
    def __init__(self, value: int = 0) -> None:
        self._value = value

    def update(self, data: memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"

    def copy(self) -> _Crc32:
        return _Crc32(self._value)


def hasher(extent: Extent) -> Hasher:
    """The extent's digest, for whoever brings its bytes himself, in order."""
    if extent.algorithm == CRC32:
        return _Crc32()
    if extent.algorithm == GIT_SHA1:  # of what git stores: the content behind a short header
        return hashlib.sha1(b"blob %d\0" % extent.nbytes, usedforsecurity=False)
    return hashlib.new(extent.algorithm.replace("-", ""), usedforsecurity=False)


def all_of(path: Path) -> tuple[Span, ...]:
    """The whole file as it is now, as spans."""
    return ((0, path.stat().st_size),)


def gaps(spans: Iterable[Span], size: int) -> tuple[Span, ...]:
    """What the spans leave of a file of so many bytes: header, padding, ending."""
    found, position = [], 0
    for start, end in sorted(spans):
        if start > position:
            found.append((position, start))
        position = max(position, end)
    return (*found, (position, size)) if position < size else tuple(found)


def read_digests(path: Path, wanted: Iterable[Extent]) -> dict[Extent, str | None]:
    """Each extent's digest in hexadecimal; None where the file ends before it.

    Cost: one reading of all bytes that any extent has. Memory: one buffer.
    """
    hashers = {extent: hasher(extent) for extent in wanted}
    left = {extent: extent.nbytes for extent in hashers}
    waiting = sorted(((span, extent) for extent in hashers for span in extent.spans), key=lambda item: item[0])
    waiting.reverse()
    current: list[tuple[Span, Extent]] = []
    for position, data in _chunks(path, [span for span, _ in waiting]):
        end = position + len(data)
        while waiting and waiting[-1][0][0] < end:
            current.append(waiting.pop())
        for (start, stop), extent in current:
            piece = data[max(start - position, 0) : min(stop, end) - position]
            hashers[extent].update(piece)
            left[extent] -= len(piece)
        current = [item for item in current if item[0][1] > end]
    return {extent: None if left[extent] else found.hexdigest() for extent, found in hashers.items()}


def _chunks(path: Path, spans: Sequence[Span]) -> Iterator[tuple[int, memoryview]]:
    """The bytes that any of the spans has, each once, up to the file's end; every view is of the same buffer."""
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        for start, end in _merged(spans):
            position = start
            while position < end:
                count = os.preadv(file.fileno(), [buffer[: end - position]], position)
                if not count:
                    return
                yield position, buffer[:count]
                position += count


def _merged(spans: Sequence[Span]) -> list[Span]:
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def digests(wanted: Mapping[Path, Iterable[Extent]]) -> dict[tuple[Path, Extent], str | None]:
    """The same for many files, several readings side by side."""
    jobs = [(path, share) for path, extents in wanted.items() for share in _shares(list(dict.fromkeys(extents)))]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="digest") as pool:
        found = pool.map(lambda job: read_digests(*job), jobs)
        return {
            (path, extent): value
            for (path, _), values in zip(jobs, found, strict=True)
            for extent, value in values.items()
        }


def _shares(extents: Sequence[Extent]) -> list[list[Extent]]:
    """Groups that threads can take: all in one where one of them is the whole file, so that it is read once."""
    ends = [span[1] for extent in extents for span in extent.spans]
    everything = ((0, max(ends, default=0)),)
    if any(extent.spans == everything for extent in extents):
        return [list(extents)]
    shares = [[extent] for extent in extents if len(extent.spans) != 1]
    filled = _SHARE
    for extent in sorted((extent for extent in extents if len(extent.spans) == 1), key=lambda extent: extent.spans):
        if filled >= _SHARE:
            shares.append([])
            filled = 0
        shares[-1].append(extent)
        filled += extent.nbytes
    return shares
