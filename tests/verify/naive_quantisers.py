"""ggml's types written the plain way, by the extremes of each group: coarser than ggml's own search for scales."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gguf import GGMLQuantizationType as Type

Array = np.ndarray


def join(integers: Array, bits: int, width: int) -> Array:
    """Small integers to bytes: of every `width` bytes first all the lowest bits, then the next ones up."""
    parts = integers.astype(np.uint8).reshape(len(integers), -1, 8 // bits, width)
    return np.bitwise_or.reduce(parts << np.arange(0, 8, bits, dtype=np.uint8)[:, None], axis=2).reshape(len(parts), -1)


def q5_0(values: Array) -> Array:
    blocks = values.reshape(-1, 32)
    scale = halves(np.abs(blocks).max(axis=1) / 15)
    codes = np.clip(np.rint(blocks / known(scale)[:, None]), -16, 15) + 16
    low, high = codes.astype(np.uint8) & 15, codes.astype(np.uint8) >> 4
    return packed(scale, join(high, 1, 1), join(low, 4, 16))


def q6_k(values: Array) -> Array:
    groups = values.reshape(-1, 16, 16)
    wanted = np.abs(groups).max(axis=2) / 31
    scale, scales = levels(wanted, 127)
    codes = (np.clip(np.rint(groups / known(scale[:, None] * scales)[..., None]), -32, 31) + 32).astype(np.uint8)
    codes = codes.reshape(len(codes), 256)
    return packed(join(codes & 15, 4, 64), join(codes >> 4, 2, 32), scales.astype(np.int8), scale)


def q4_k(values: Array) -> Array:
    codes, scale, minimum, scales, minima = affine(values.reshape(-1, 8, 32), 15, 63)
    first, second = (found[:, :4] | (found[:, 4:] >> 4) << 6 for found in (scales, minima))
    third = scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4
    return packed(scale, minimum, first, second, third, join(codes, 4, 32))


def q2_k(values: Array) -> Array:
    codes, scale, minimum, scales, minima = affine(values.reshape(-1, 16, 16), 3, 15)
    return packed(scales | minima << 4, join(codes, 2, 32), scale, minimum)


def affine(groups: Array, largest: int, steps: int) -> tuple[Array, Array, Array, Array, Array]:
    """Codes up to `largest`, the two half-precision scales, and the groups' integer scales and minima."""
    lowest = np.minimum(groups.min(axis=2), 0)
    scale, scales = levels((groups.max(axis=2) - lowest) / largest, steps)
    minimum, minima = levels(-lowest, steps)
    shifted = groups + (minimum[:, None].astype(np.float32) * minima)[..., None]
    codes = np.clip(np.rint(shifted / known(scale[:, None] * scales)[..., None]), 0, largest)
    return codes.reshape(len(codes), -1), scale, minimum, scales, minima


def levels(wanted: Array, steps: int) -> tuple[Array, Array]:
    """A block's scale, and its groups' as multiples of that."""
    scale = halves(wanted.max(axis=1) / steps)
    return scale, np.clip(np.rint(wanted / known(scale)[:, None]), 0, steps).astype(np.uint8)


def halves(values: Array) -> Array:
    return values.astype(np.float16)


def known(scales: Array) -> Array:
    """To divide by."""
    return np.where(scales == 0, 1, scales).astype(np.float32)


def packed(*fields: Array) -> Array:
    return np.concatenate([np.ascontiguousarray(field).view(np.uint8).reshape(len(field), -1) for field in fields], 1)


QUANTISERS: dict[Type, Callable[[Array], Array]] = {
    Type.Q5_0: q5_0,
    Type.Q6_K: q6_k,
    Type.Q4_K: q4_k,
    Type.Q2_K: q2_k,
}


def quantised(values: Array, kind: Type) -> Array:
    """Whole rows of blocks."""
    return QUANTISERS[kind](values.astype(np.float32)).reshape(len(values), -1)
