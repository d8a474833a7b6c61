"""A tensor as what it is on disk: a run of bytes at a known place of a known file."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from pathlib import Path
from typing import Protocol


class DType(Enum):
    """An element type: its name in torch and numpy's manner, its code in safetensors, its size in bytes."""

    FLOAT64 = ("float64", "F64", 8)
    FLOAT32 = ("float32", "F32", 4)
    BFLOAT16 = ("bfloat16", "BF16", 2)
    FLOAT16 = ("float16", "F16", 2)
    FLOAT8_E4M3 = ("float8_e4m3fn", "F8_E4M3", 1)
    FLOAT8_E5M2 = ("float8_e5m2", "F8_E5M2", 1)
    INT64 = ("int64", "I64", 8)
    INT32 = ("int32", "I32", 4)
    INT16 = ("int16", "I16", 2)
    INT8 = ("int8", "I8", 1)
    UINT8 = ("uint8", "U8", 1)
    BOOL = ("bool", "BOOL", 1)

    def __init__(self, label: str, code: str, nbytes: int) -> None:
        self.label = label
        self.code = code
        self.nbytes = nbytes


# The types in which Llama weights are stored unquantised.
FLOATS = (DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A run of bytes with a checksum of its own; one or several tensors lie in it.

    name: what the file calls it. crc32: of exactly these bytes; None where the file stores none.
    """

    file: Path
    name: str
    offset: int
    nbytes: int
    crc32: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSlice:
    """Where a tensor's elements are.

    offset: of the first element, in bytes from the start of the file.
    strides: in elements, one per axis; None when the elements lie row after row without gaps.
    record: the checksummed run that holds them, if the file has such.
    """

    file: Path
    offset: int
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    record: Record | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the elements themselves, whatever lies between them."""
        return prod(self.shape) * self.dtype.nbytes

    def rows(self, start: int, stop: int) -> TensorSlice:
        """Rows start to stop of it, as a slice of their own."""
        stride = self.strides[0] if self.strides else prod(self.shape[1:])
        offset = self.offset + start * stride * self.dtype.nbytes
        return replace(self, offset=offset, shape=(stop - start, *self.shape[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """One opened file: its tensors by name, and what it says of itself.

    stem: the name under which the file was saved, where it records that (zip `.pth`), else None.
    index_sha256: digest of the file's own table of contents, checksums included; None without one.
    metadata: free text the file carries (safetensors).
    """

    path: Path
    size: int
    tensors: dict[str, TensorSlice]
    stem: str | None = None
    index_sha256: str | None = None
    metadata: dict[str, str] | None = None


class ByteSource(Protocol):
    """Anything whose bytes can be read by position: a local file, later a remote one."""

    @property
    def path(self) -> Path:
        """What to call it in a message."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """Up to nbytes bytes from offset; fewer only at the end."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine, read by position; opened for each read, so it holds no resource."""

    path: Path

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.path.stat().st_size

    def read(self, offset: int, nbytes: int) -> bytes:
        """Up to nbytes bytes from offset; fewer only at the end."""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), nbytes, offset)
