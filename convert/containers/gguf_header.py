"""The header of a GGUF file taken apart, before anything is concluded from it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.containers.gguf_values import MOST_AXES, Array, Kind, Scalar, Value
from llama_convert.convert.containers.slices import ByteSource
from llama_convert.convert.containers.sources import is_far
from llama_convert.convert.errors import CheckpointError

_FIRST_READ = 1 << 20  # bytes: all of a header but a vocabulary
_GROWTH = 16  # a vocabulary needs a second read, hardly ever a third
_GROWTH_FAR = 2  # where bytes cost more than attempts
_LARGEST_HEADER = 100_000_000  # bytes; a vocabulary of a million tokens has half of it
_DEEPEST = 8  # arrays within arrays; no known file has any
_KINDS = {kind.number: kind for kind in Kind}
_UINT32, _UINT64 = struct.Struct("<I"), struct.Struct("<Q")
# The fewest bytes each can take: a key of one letter with a one-byte value, a tensor without name or axes.
_SMALLEST_PAIR, _SMALLEST_INFO, _SMALLEST_TEXT, _SMALLEST_ARRAY = 14, 24, 8, 12


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the header says of a tensor. shape: row-major. start: in bytes from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    start: int


@dataclass(frozen=True, slots=True)
class Header:
    """A header in its parts. size: bytes, without padding. problems: what is wrong with single values."""

    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    size: int
    problems: tuple[str, ...]


class _ShortError(Exception):
    """The bytes at hand end before the header does; `needed` is a length that it reaches at the least."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class _UnreadableError(Exception):
    """Something after which nothing can be read, because its length is unknown."""


def read_header(source: ByteSource) -> Header:
    """The header of what starts as a GGUF file, read in one piece, or in two or three growing ones.

    Raises CheckpointError: truncated, longer than 100 MB, or of unknown structure. A count is believed only
    where the file could hold so many: memory is some ten times the header at the most.
    """
    bound = min(source.size, _LARGEST_HEADER)
    wanted = min(_FIRST_READ, bound)
    growth = _GROWTH_FAR if is_far(source.path) else _GROWTH
    while True:
        cursor = _Cursor(source.read(0, wanted))
        try:
            return _header(cursor)
        except _UnreadableError as error:
            raise CheckpointError(
                f"{source.path}: unreadable GGUF header: {error}",
                problems=cursor.problems[:50],
                advice="Fetch the file again.",
            ) from error
        except _ShortError as short:
            if wanted == bound or short.needed > bound:
                raise _too_long(source, cursor, short.needed) from short
            wanted = min(max(wanted * growth, short.needed), bound)


def _too_long(source: ByteSource, cursor: _Cursor, needed: int) -> CheckpointError:
    found = f"the file has {source.size:,} bytes"
    if needed <= source.size:
        found = f"no header is longer than {_LARGEST_HEADER:,} bytes"
    return CheckpointError(
        f"{source.path}: damaged or truncated GGUF header: {cursor.reading} would end at byte {needed:,}, but {found}",
        problems=cursor.problems[:50],
        advice="Fetch the file again.",
    )


@dataclass(slots=True)
class _Cursor:
    """The bytes at hand and how far they are read. reading: what, for a message."""

    data: bytes
    position: int = 8
    reading: str = "its start"
    problems: list[str] = field(default_factory=list)

    def require(self, nbytes: int) -> None:
        if self.position + nbytes > len(self.data):
            raise _ShortError(self.position + nbytes)

    def take(self, nbytes: int) -> bytes:
        self.require(nbytes)
        self.position += nbytes
        return self.data[self.position - nbytes : self.position]

    def uint32(self) -> int:
        number: int = _UINT32.unpack(self.take(4))[0]
        return number

    def uint64(self) -> int:
        number: int = _UINT64.unpack(self.take(8))[0]
        return number

    def texts(self, count: int) -> tuple[str | bytes, ...]:
        """So many texts. A large vocabulary's reading time is this loop, so it calls only C."""
        self.require(count * _SMALLEST_TEXT)
        data, position, unpack, pieces = self.data, self.position, _UINT64.unpack_from, []
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(data, position)[0]
                pieces.append(data[start:position])
        except (struct.error, OverflowError) as error:
            raise _ShortError(position + 8) from error
        if position > len(data):  # a slice stops at the end without a word
            raise _ShortError(position)
        self.position = position
        try:
            return tuple(map(bytes.decode, pieces))
        except UnicodeDecodeError:
            return tuple(map(_text, pieces))


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _header(cursor: _Cursor) -> Header:
    cursor.reading = "the counts"
    tensors, pairs = cursor.uint64(), cursor.uint64()
    cursor.reading = f"{tensors:,} tensors and {pairs:,} metadata keys"
    cursor.require(tensors * _SMALLEST_INFO + pairs * _SMALLEST_PAIR)
    metadata = _metadata(cursor, pairs)
    infos = _infos(cursor, tensors)
    return Header(metadata, infos, cursor.position, tuple(cursor.problems))


def _name(cursor: _Cursor) -> str:
    name = _text(cursor.take(cursor.uint64()))
    if isinstance(name, bytes):
        raise _UnreadableError(f"{cursor.reading}: {name[:80]!r} is no name")
    return name


def _metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for number in range(1, count + 1):
        cursor.reading = f"metadata key {number:,} of {count:,}"
        key = _name(cursor)
        if not key:
            cursor.problems.append(f"{cursor.reading}: has no name")
        if key in metadata:
            cursor.problems.append(f"{key[:80]}: given twice")
        cursor.reading = key[:80]
        kind = _kind(cursor)
        metadata[key] = _array(cursor, 1) if kind is Kind.ARRAY else _scalar(cursor, kind)
    return metadata


def _kind(cursor: _Cursor) -> Kind:
    number = cursor.uint32()
    if number not in _KINDS:
        raise _UnreadableError(f"{cursor.reading}: unknown value type {number}")
    return _KINDS[number]


def _scalar(cursor: _Cursor, kind: Kind) -> Scalar:
    if kind is Kind.STRING:
        return Scalar(kind, _text(cursor.take(cursor.uint64())))
    return Scalar(kind, _numbers(cursor, kind, 1)[0].item())


def _array(cursor: _Cursor, depth: int) -> Array:
    if depth > _DEEPEST:
        raise _UnreadableError(f"{cursor.reading}: more than {_DEEPEST} arrays within each other")
    kind, count = _kind(cursor), cursor.uint64()
    if kind is Kind.STRING:
        return Array(kind, cursor.texts(count))
    if kind is Kind.ARRAY:
        cursor.require(count * _SMALLEST_ARRAY)
        return Array(kind, tuple(_array(cursor, depth + 1) for _ in range(count)))
    return Array(kind, _numbers(cursor, kind, count))


def _numbers(cursor: _Cursor, kind: Kind, count: int) -> NDArray[np.generic]:
    content = cursor.take(count * kind.dtype.itemsize)
    if kind is Kind.BOOL and content.translate(None, b"\0\1"):
        cursor.problems.append(f"{cursor.reading}: a truth value that is neither 0 nor 1")
    return np.frombuffer(content, kind.dtype)


def _infos(cursor: _Cursor, count: int) -> tuple[TensorInfo, ...]:
    infos = []
    for number in range(1, count + 1):
        cursor.reading = f"tensor {number:,} of {count:,}"
        name = _name(cursor)
        cursor.reading = name[:80]
        axes = np.frombuffer(cursor.take(8 * cursor.uint32()), "<u8")
        shape = tuple(axes[: MOST_AXES + 1][::-1].tolist())  # one too many is enough to refuse
        infos.append(TensorInfo(name, shape, cursor.uint32(), cursor.uint64()))
    return tuple(infos)
