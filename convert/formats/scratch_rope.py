"""The book's tables of cosines and sines, where a file still has them: they show what its class computed with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.arithmetic import cast
from llama_convert.convert.blocks import OpenFiles, read
from llama_convert.convert.containers.slices import FLOATS, DType, TensorFile, TensorSlice
from llama_convert.convert.expressions import Stored
from llama_convert.convert.rope import divisors, frequencies, released_scaling

TRAINED_CONTEXT = 131072  # positions, of Llama 3.1 and 3.2
_THETAS = (10000.0, 500000.0, 1000000.0)
# What the book's rescale_theta was used on: Llama 3's theta, made for these many positions.
_RESCALED, _CONTEXTS = 500000.0, (TRAINED_CONTEXT, 8192)
_FACTORS = (None, 8.0, 32.0)
# How far a stored frequency may lie from the true one, relative to it: rounding of the table's type, several times
# over; in float32, of the power that gave it. float16 has few bits left for the smallest ones.
_TOLERANCES = {DType.FLOAT32: 2.0**-17, DType.FLOAT16: 2.0**-8, DType.BFLOAT16: 2.0**-6}
_SMALLEST = {DType.FLOAT16: 2.0**-24}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What the tables show.

    context: positions. rope: the (theta, factor) they were made with, factor None unscaled; None where nothing
    known gives such tables. per_layer: every layer has its own, as in the book's Llama2Model.
    """

    context: int
    head_dim: int
    rope: tuple[float, float | None] | None
    per_layer: bool

    @property
    def rescaled_from(self) -> float | None:
        """Llama 3's theta where old notebooks made a smaller one of it, for a shorter context; else None."""
        return _RESCALED if self.rope and self.rope[0] in _shares(self.context) else None


def read_tables(file: TensorFile) -> Tables | None:
    """The tables in the file, or those of its first layer; None without. Cost: two rows are read."""
    for prefix in ("", "trf_blocks.0.att."):
        cos, sin = (file.tensors.get(f"{prefix}{name}") for name in ("cos", "sin"))
        if cos and sin and _is_table(cos) and cos.shape == sin.shape and cos.dtype is sin.dtype:
            found = _frequencies(cos, sin)
            return Tables(
                context=cos.shape[0],
                head_dim=cos.shape[1],
                rope=_origin(found, cos),
                per_layer=bool(prefix),
            )
    return None


def _is_table(tensor: TensorSlice) -> bool:
    return len(tensor.shape) == 2 and tensor.shape[0] > 1 and tensor.shape[1] % 2 == 0 and tensor.dtype in FLOATS


def _frequencies(cos: TensorSlice, sin: TensorSlice) -> NDArray[np.float64]:
    """Radians from one position to the next: the angles at position 1. The two halves of a row are alike."""
    with OpenFiles() as files:
        rows = [cast(read(Stored(table), 1, 2, files), table.dtype, DType.FLOAT32) for table in (sin, cos)]
    y, x = (row.view(np.float32)[0].astype(np.float64) for row in rows)
    angles: NDArray[np.float64] = np.arctan2(y, x)
    return angles[: cos.shape[1] // 2]


def _origin(found: NDArray[np.float64], table: TensorSlice) -> tuple[float, float | None] | None:
    context, head_dim = table.shape
    relative, absolute = _TOLERANCES[table.dtype], _SMALLEST.get(table.dtype, 0.0)
    origins = [
        (theta, factor)
        for theta, factor in _candidates(context)
        if np.allclose(found, _stretched(theta, factor, head_dim), relative, absolute)
    ]
    return origins[0] if len(origins) == 1 else None  # several: heads too small to tell


def _candidates(context: int) -> Iterator[tuple[float, float | None]]:
    return ((theta, factor) for theta in {*_THETAS, *_shares(context)} for factor in _FACTORS)


def _shares(context: int) -> list[float]:
    """What rescale_theta makes of Llama 3's theta for a context shorter than the whole one."""
    return [_RESCALED * context / whole for whole in _CONTEXTS if context < whole]


def _stretched(theta: float, factor: float | None, head_dim: int) -> NDArray[np.float64]:
    return frequencies(theta, head_dim) / divisors(released_scaling(factor), theta, head_dim)
