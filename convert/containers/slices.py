"""A tensor as what it is on disk: a run of bytes at a known place of a known file."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from pathlib import Path
from typing import Protocol


class DType(Enum):
    """How elements are stored.

    label: the name in torch and numpy's manner, or GGUF's. code: the name in safetensors, "" where it has none.
    nbytes: of a block. block: the elements of a row that are stored together; 1 but for quantised types.
    """

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
    UINT32 = ("uint32", "U32", 4)
    UINT8 = ("uint8", "U8", 1)
    BOOL = ("bool", "BOOL", 1)
    # ggml's quantised types; sources: ggml/src/ggml-common.h, gguf-py gguf/constants.py.
    Q4_0 = ("q4_0", "", 18, 32)
    Q4_1 = ("q4_1", "", 20, 32)
    Q5_0 = ("q5_0", "", 22, 32)
    Q5_1 = ("q5_1", "", 24, 32)
    Q8_0 = ("q8_0", "", 34, 32)
    Q2_K = ("q2_k", "", 84, 256)
    Q3_K = ("q3_k", "", 110, 256)
    Q4_K = ("q4_k", "", 144, 256)
    Q5_K = ("q5_k", "", 176, 256)
    Q6_K = ("q6_k", "", 210, 256)
    IQ2_XXS = ("iq2_xxs", "", 66, 256)
    IQ2_XS = ("iq2_xs", "", 74, 256)
    IQ2_S = ("iq2_s", "", 82, 256)
    IQ3_XXS = ("iq3_xxs", "", 98, 256)
    IQ3_S = ("iq3_s", "", 110, 256)
    IQ1_S = ("iq1_s", "", 50, 256)
    IQ1_M = ("iq1_m", "", 56, 256)
    IQ4_NL = ("iq4_nl", "", 18, 32)
    IQ4_XS = ("iq4_xs", "", 136, 256)
    TQ1_0 = ("tq1_0", "", 54, 256)
    TQ2_0 = ("tq2_0", "", 66, 256)
    MXFP4 = ("mxfp4", "", 17, 32)
    NVFP4 = ("nvfp4", "", 36, 64)

    def __init__(self, label: str, code: str, nbytes: int, block: int = 1) -> None:
        self.label = label
        self.code = code
        self.nbytes = nbytes
        self.block = block

    def size(self, elements: int) -> int:
        """Bytes of so many elements, which must fill whole blocks."""
        return elements // self.block * self.nbytes


# The types in which Llama weights are stored unquantised.
FLOATS = (DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)
# The quantised types that can be written; all can be read.
QUANTISED = (DType.Q8_0, DType.Q4_0)


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
        return self.dtype.size(prod(self.shape))

    def rows(self, start: int, stop: int) -> TensorSlice:
        """Rows start to stop of it, as a slice of their own."""
        stride = self.strides[0] if self.strides else prod(self.shape[1:])
        offset = self.offset + self.dtype.size(start * stride)
        return replace(self, offset=offset, shape=(stop - start, *self.shape[1:]))

    def columns(self, start: int, stop: int) -> TensorSlice:
        """Columns start to stop of every row of a matrix of unquantised elements."""
        row, step = self.strides or (self.shape[1], 1)
        offset = self.offset + start * step * self.dtype.nbytes
        return replace(self, offset=offset, shape=(self.shape[0], stop - start), strides=(row, step))


class Coding(Enum):
    """How codes and scales give values."""

    SCALED = "value = code x scale"
    AFFINE = "value = code x scale + bias"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A matrix stored as small codes, and scales that a run of them shares; its values are float32.

    codes: float8 or int8 of the matrix's own shape (SCALED), or unsigned codes of `bits` bits packed into
    uint32, lowest bits first (AFFINE). scales: one for everything (no axes, or one element), for each row
    (rows, 1), or for each run of columns (rows, runs); biases alike, for AFFINE.
    """

    coding: Coding
    shape: tuple[int, ...]
    codes: TensorSlice
    scales: TensorSlice
    biases: TensorSlice | None = None
    bits: int = 8

    @property
    def file(self) -> Path:
        """The file of its codes."""
        return self.codes.file

    @property
    def slices(self) -> tuple[TensorSlice, ...]:
        """All that is read."""
        return (self.codes, self.scales, *([self.biases] if self.biases else []))

    @property
    def nbytes(self) -> int:
        """Bytes of all of it as stored."""
        return sum(found.nbytes for found in self.slices)

    @property
    def group(self) -> int:
        """Columns that share a scale, where scales go by runs of them."""
        return self.shape[1] // self.scales.shape[1]

    @property
    def tile(self) -> tuple[int, int] | None:
        """(rows, columns) that share a scale, where a row has several; else None."""
        return (1, self.group) if len(self.scales.shape) > 1 and self.scales.shape[1] > 1 else None

    def rows(self, start: int, stop: int) -> Scaled:
        """Rows start to stop of it."""
        own = self.scales.shape[:1] == self.shape[:1]
        return replace(
            self,
            shape=(stop - start, *self.shape[1:]),
            codes=self.codes.rows(start, stop),
            scales=self.scales.rows(start, stop) if own else self.scales,
            biases=self.biases and self.biases.rows(start, stop),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """One opened file: its tensors by name, and what it says of itself.

    stem: the name under which the file was saved, where it records that (zip `.pth`), else None.
    index_sha256: digest of the file's own table of contents, checksums included; None without one.
    metadata: free text the file carries (safetensors). beside: names of what else lies in it, such as an
    optimizer's state (`.pth` of a training run). records: its checksummed runs, tensors in them or not.
    """

    path: Path
    size: int
    tensors: dict[str, TensorSlice]
    stem: str | None = None
    index_sha256: str | None = None
    metadata: dict[str, str] | None = None
    beside: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """A file to be: its header, and for each tensor in file order where its bytes will start."""

    header: bytes
    offsets: tuple[tuple[str, int], ...]
    size: int


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
