"""Small integers and half-precision scales, out of the bytes that hold them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Blocks as their layout sees them, (blocks,); and what a decoder makes of them, (blocks, elements).
Blocks: TypeAlias = NDArray[np.void]
Elements: TypeAlias = NDArray[np.float32]


def split(packed: NDArray[np.uint8], bits: int, width: int) -> NDArray[np.uint8]:
    """Integers of 1, 2 or 4 bits: of every `width` bytes first all the lowest ones, then the next ones up.

    packed: (blocks, bytes), whole groups of `width` bytes. Returns (blocks, bytes * 8 / bits).
    """
    groups = packed.reshape(len(packed), -1, 1, width)
    integers = groups >> np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    integers &= np.uint8((1 << bits) - 1)
    return integers.reshape(len(packed), -1)


def signed(integers: NDArray[np.uint8], offset: int) -> NDArray[np.int8]:
    """Integers - offset."""
    less: NDArray[np.int8] = integers.view(np.int8) - np.int8(offset)
    return less


def by_block(factors: NDArray[Any], integers: NDArray[Any]) -> Elements:
    """Integers * the factor of their block. factors: (blocks,), integers: (blocks, any number)."""
    products = integers.astype(np.float32)
    products *= factors.astype(np.float32)[:, None]
    return products


def by_group(factors: Elements, elements: NDArray[Any], shifts: Elements | None = None) -> Elements:
    """Elements * the factor of their group, - the shift of their group.

    factors, shifts: (blocks, groups). elements: blocks * groups equal parts, of any shape. Returns (blocks, elements).
    """
    groups = elements.astype(np.float32).reshape(*factors.shape, -1)
    groups *= factors[:, :, None]
    if shifts is not None:
        groups -= shifts[:, :, None]
    return groups.reshape(len(factors), -1)
