"""How a matrix of weights is held in memory while a model runs, and how vectors go through it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llama_convert.convert.checkpoint import Parts
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.quantisation.layouts import LAYOUTS
from llama_convert.verify.forward import row_pieces
from llama_convert.verify.products import product
from llama_convert.verify.reading import read

# Columns that share a scale in ggml's Q4_0 and Q8_0.
GROUP = 32
# Rows that torch's kernel packs together.
KERNEL_ROWS = 64
_INNER = 1  # an argument of torch's packing that only GPUs look at


class Matrix(Protocol):
    """Weights (rows, columns) that vectors can be multiplied with."""

    def times(self, vectors: Tensor) -> Tensor:
        """(..., columns) -> (..., rows): every vector's product with every row."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""


class Table(Protocol):
    """Weights of which rows are looked up."""

    def rows(self, numbers: Tensor) -> Tensor:
        """These rows' values, (..., columns)."""


@dataclass(frozen=True, slots=True)
class Dense:
    """Values in the type that is computed in; `weight` may be a view of a mapped file."""

    weight: Tensor

    def times(self, vectors: Tensor) -> Tensor:
        """(..., columns) -> (..., rows)."""
        return product(vectors, self.weight)

    def rows(self, numbers: Tensor) -> Tensor:
        """(..., columns)."""
        return torch.nn.functional.embedding(numbers, self.weight)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""
        return (self.weight,)


@dataclass(frozen=True, slots=True)
class Filed:
    """Rows read from their files when they are asked for; they take no memory."""

    parts: Parts
    dtype: torch.dtype

    def rows(self, numbers: Tensor) -> Tensor:
        """(..., columns). Each different row is read once."""
        different, places = torch.unique(numbers, return_inverse=True)
        pieces = [row_pieces(self.parts, number) for number in different.tolist()]
        return torch.cat([torch.cat([read(one) for one in row], dim=1) for row in pieces]).to(self.dtype)[places]


@dataclass(frozen=True, slots=True)
class FourBits:
    """Codes of four bits, and a scale and a shift for each GROUP columns of a row: (code - 8) * scale + shift.

    packed: as torch's kernel wants it, (rows, columns / 2), uint8. scales: (columns / GROUP, rows, 2), bfloat16.
    """

    packed: Tensor
    scales: Tensor

    def times(self, vectors: Tensor) -> Tensor:
        """(vectors, columns) -> (vectors, rows)."""
        found: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(vectors, self.packed, GROUP, self.scales)
        return found

    def room(self, rows: int) -> FourBits:
        """One of as many columns, with so many rows, not yet filled."""
        groups, _, pair = self.scales.shape
        packed = self.packed.new_empty((rows, self.packed.shape[1]))
        return FourBits(packed, self.scales.new_empty((groups, rows, pair)))

    def put(self, part: FourBits, start: int) -> None:
        """Fill the rows from `start` on."""
        end = start + len(part.packed)
        self.packed[start:end] = part.packed
        self.scales[:, start:end] = part.scales


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix in ggml's Q4_0 or Q8_0, multiplied in bfloat16 without being unpacked in memory.

    torch's kernel for four bits reads a quarter of what bfloat16 takes, and reading is what decoding costs. Codes of
    eight bits go through it as two times four, high and low. Scales are rounded from float16 to bfloat16: as much
    as the values are when a matrix is held in bfloat16.
    """

    parts: tuple[FourBits, ...]

    def times(self, vectors: Tensor) -> Tensor:
        """(..., columns) -> (..., rows)."""
        flat = vectors.reshape(-1, vectors.shape[-1]).contiguous()  # a part of columns is not
        first, *others = (part.times(flat) for part in self.parts)
        return sum(others, first).view(*vectors.shape[:-1], -1)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""
        return tuple(tensor for part in self.parts for tensor in (part.packed, part.scales))


@dataclass(frozen=True, slots=True)
class Sharded:
    """One matrix in several pieces, as model-parallel files have it. axis: where they meet, 0 rows, 1 columns."""

    pieces: tuple[Matrix, ...]
    axis: int

    def times(self, vectors: Tensor) -> Tensor:
        """(..., columns) -> (..., rows)."""
        if self.axis == 0:
            return torch.cat([piece.times(vectors) for piece in self.pieces], dim=-1)
        first, *others = (
            piece.times(part) for piece, part in zip(self.pieces, vectors.chunk(len(self.pieces), dim=-1), strict=True)
        )
        return sum(others, first)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""
        return tuple(tensor for piece in self.pieces for tensor in piece.tensors)


def from_blocks(contents: Iterable[Tensor], dtype: DType, rows: int) -> Blocks:
    """A matrix in Q4_0 or Q8_0 from its bytes in the file: some rows, then some more, (rows, bytes of a row), uint8.

    rows: of all of it. All but the last must give a multiple of KERNEL_ROWS: the kernel packs so many together, and
    parts of a matrix then lie behind each other. Memory: the result, and four times the bytes of some rows.
    """
    filled: tuple[FourBits, ...] = ()
    start = 0
    for content in contents:
        parts = _PARTS[dtype](content.numpy().view(LAYOUTS[dtype]))
        filled = filled or tuple(part.room(rows) for part in parts)
        for all_rows, part in zip(filled, parts, strict=True):
            all_rows.put(part, start)
        start += len(content)
    return Blocks(filled)


def _of_four(units: NDArray[np.void]) -> tuple[FourBits, ...]:
    """The first half of a block's elements lies in the low bits, the second in the high ones."""
    quants = torch.from_numpy(units["quants"])
    return (_four_bits(torch.cat([quants & 15, quants >> 4], dim=-1), units["scale"]),)


def _of_eight(units: NDArray[np.void]) -> tuple[FourBits, ...]:
    quants = torch.from_numpy(units["quants"])
    scales = units["scale"].astype(np.float32)
    return _four_bits((quants >> 4) + 8, scales * 16), _four_bits(quants & 15, scales, shift=8)


_PARTS = {DType.Q4_0: _of_four, DType.Q8_0: _of_eight}


def _four_bits(codes: Tensor, scales: NDArray[np.floating], shift: int = 0) -> FourBits:
    """codes: (rows, groups, GROUP). scales: (rows, groups). shift: in units of the scale."""
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.flatten(1).to(torch.int32), _INNER)
    rounded = torch.from_numpy(scales.astype(np.float32)).to(torch.bfloat16)
    return FourBits(packed, torch.stack((rounded, rounded * shift), dim=-1).transpose(0, 1).contiguous())
