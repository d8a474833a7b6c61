"""Types whose 4-bit codes name one of sixteen fixed numbers.

Every function takes blocks (blocks,) in the type's layout and returns (blocks, elements), the same bits as
ggml's own code. Sources: ggml/src/ggml-quants.c, dequantize_row_*; ggml/src/ggml-impl.h for the scales of a
byte; OCP Microscaling Formats specification 1.0 for the values of MXFP4.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.quantisation.bits import Blocks, Elements, by_block, by_group, signed, split

_UNEVEN = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
# Four-bit floats (a sign, two bits of exponent, one of mantissa), doubled; the scales below are halved for it.
_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


def iq4_nl(blocks: Blocks) -> Elements:
    """One of sixteen unevenly spaced integers * scale."""
    return by_block(blocks["scale"], _UNEVEN.take(split(blocks["quants"], 4, 16)))


def iq4_xs(blocks: Blocks) -> Elements:
    """The same, with a scale of 6 bits for every group of 32."""
    scales = split(blocks["scales_low"], 4, 1) | split(blocks["scales_high"], 2, 1) << np.uint8(4)
    return by_group(by_block(blocks["scale"], signed(scales, 32)), _UNEVEN.take(split(blocks["quants"], 4, 16)))


def mxfp4(blocks: Blocks) -> Elements:
    """A four-bit float * a power of two."""
    return by_block(_powers().take(blocks["scale"]), _DOUBLED.take(split(blocks["quants"], 4, 16)))


def nvfp4(blocks: Blocks) -> Elements:
    """A four-bit float * an eight-bit float, by group of 16."""
    return by_group(_unsigned_e4m3().take(blocks["scales"]), _DOUBLED.take(split(blocks["quants"], 4, 8)))


@cache
def _powers() -> NDArray[np.float32]:
    """2 ** (byte - 128), for all bytes; the smallest two are subnormal."""
    powers: NDArray[np.float32] = np.ldexp(np.ones(256, np.float32), np.arange(-128, 128))
    return powers


@cache
def _unsigned_e4m3() -> NDArray[np.float32]:
    """Half of what a byte means as a float of four bits exponent and three mantissa, without sign.

    ggml ignores the highest bit, but for the NaN, 127: that is 0, and 255 is not.
    """
    exponent, mantissa = np.arange(256) >> 3 & 15, np.arange(256) & 7
    whole = mantissa + np.where(exponent > 0, 8, 0)
    values: NDArray[np.float32] = np.ldexp(whole.astype(np.float32), np.maximum(exponent, 1) - 11)
    values[127] = 0
    return values
