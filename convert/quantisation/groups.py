"""Groups of int8 numbers that share a float32 scale, as llama2.c's version 2 stores matrices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST = np.float32(127)


def group_size(dim: int, hidden_dim: int, wanted: int = 64) -> int:
    """The largest of `wanted`, its half, its quarter, ... that divides the rows of every matrix.

    export.py asks only that it divides dim; where it does not divide hidden_dim, runq.c computes nonsense.
    """
    while dim % wanted or hidden_dim % wanted:
        wanted //= 2
    return wanted


def quantise_groups(values: NDArray[np.float32], group: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The values as int8, and each group's scale: value is about int8 * scale.

    values: (rows, columns), columns a multiple of group. Returns (rows, columns) and (rows, columns / group).
    Bit for bit what export.py's quantize_q80 gives on x86, except which NaN a scale is: a group of zeros gets
    scale 0 and zeros; one with a NaN or an infinity gets that as scale and zeros. Halves go to the even number.
    Memory: about 10 bytes an element on top.
    """
    rows, columns = values.shape
    grouped = values.reshape(rows, columns // group, group)
    scales = np.abs(grouped).max(axis=2) / _LARGEST
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        numbers = np.rint(grouped / scales[:, :, None])
    numbers[~np.isfinite(numbers)] = 0
    # By way of int32: scales that are denormal are so coarse that numbers can exceed 127, and then wrap around.
    return numbers.astype(np.int32).astype(np.int8).reshape(rows, columns), scales


def dequantise_groups(numbers: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values that int8 numbers (rows, columns) and scales (rows, groups) stand for, in float32 as in runq.c."""
    rows, groups = scales.shape
    return (numbers.reshape(rows, groups, -1) * scales[:, :, None]).reshape(numbers.shape)
