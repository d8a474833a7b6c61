"""Weights quantised to ggml's Q8_0 and Q4_0, the same bytes as ggml's own code.

Blocks of 32 elements are too short for numpy to loop over: a row of 32 costs it as much in overhead as in
work. So a chunk of them is first copied to lanes: eight rows of four elements of every block. Then every
step, maxima within blocks too, is a pass over long rows.

Maxima are taken of bit patterns. Floats are a sign and a magnitude, so read as integers with a sign, the
largest pattern is the largest positive number; without a sign, it is the negative number farthest from zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import UsageError

# Elements encoded at a time: few enough for the CPU's cache, enough that numpy's cost per call, about a
# microsecond for each of some thirty, does not count.
CHUNK = 1 << 19

# Bit patterns of elements, unsigned integers of 16 or 32 bits: in lanes (8, 4 * blocks), one a block, or as stored.
Patterns: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]

_BLOCK = 32
_LOWEST_BITS = np.uint64(0x0101010101010101)  # of eight bytes


def encode(values: Floats, dtype: DType) -> NDArray[np.uint8]:
    """encode_block of values in single precision, (rows, elements)."""
    return encode_block(np.ascontiguousarray(values).view(np.uint8), DType.FLOAT32, dtype)


def encode_block(block: NDArray[np.uint8], source: DType, target: DType) -> NDArray[np.uint8]:
    """Stored weights quantised, (rows, bytes per row) in and out.

    source: FLOAT32, BFLOAT16 or FLOAT16. target: one of ENCODERS.
    The same bytes as ggml's own code for all numbers. A block with an infinity or a NaN has a scale that is
    not finite, as there; so has one whose scale is beyond half precision, with elements over 500,000.
    Raises UsageError when a row cannot be cut into blocks of 32.
    Memory: the result, and about 6 MB. Source: ggml/src/ggml-quants.c, quantize_row_q4_0_ref and _q8_0_ref.
    """
    if block.shape[1] % (_BLOCK * source.nbytes):
        raise UsageError(
            f"rows of {block.shape[1] // source.nbytes:,} elements cannot be cut into {target.label} blocks of 32",
            advice="Choose a type that is not quantised.",
        )
    elements = np.ascontiguousarray(block).view(f"u{source.nbytes}").reshape(-1, _BLOCK)
    encoded = np.empty((len(elements), target.nbytes), np.uint8)
    step = CHUNK // _BLOCK
    with np.errstate(all="ignore"):
        for start in range(0, len(elements), step):
            ENCODERS[target](elements[start : start + step], source, encoded[start : start + step])
    return encoded.reshape(len(block), block.shape[1] // source.size(_BLOCK) * target.nbytes)


def _q4_0(elements: Patterns, source: DType, encoded: NDArray[np.uint8]) -> None:
    """Half-precision scale, 32 times 4 bits: element / scale + 8, to the nearest.

    The scale is such that the element farthest from zero, with its sign, becomes 0.
    """
    lanes = _lanes(elements)
    scale = _floats(_first_largest(lanes, elements), source) / np.float32(-8)
    scaled = _floats(lanes, source)
    scaled *= _for_lanes(_inverse(scale))
    scaled += np.float32(8.5)
    quants = scaled.astype(np.uint8).reshape(-1).view(np.uint64)
    quants -= quants >> np.uint64(4) & _LOWEST_BITS  # The element opposite to the farthest became 16; 15 is the most.
    low, high = quants.reshape(2, -1)
    low |= high << np.uint64(4)
    _write(encoded, scale, low)


def _q8_0(elements: Patterns, source: DType, encoded: NDArray[np.uint8]) -> None:
    """Half-precision scale, 32 times 8 bits with a sign: element / scale to the nearest, halves away from zero.

    The scale is such that the element farthest from zero becomes 127 or -127.
    """
    lanes = _lanes(elements)
    magnitudes = lanes & lanes.dtype.type((1 << 8 * lanes.itemsize - 1) - 1)
    scale = _floats(_largest(magnitudes), source) / np.float32(127)
    scaled = _floats(lanes, source)
    scaled *= _for_lanes(_inverse(scale))
    scaled += scaled
    # Twice the number cut to an integer, then (it + 1) / 2 rounded down, or it / 2 for negative ones, is exact;
    # adding a half before cutting would not be.
    twice = scaled.astype(np.int16)
    twice -= ~(twice >> np.int16(15))
    twice >>= np.int16(1)
    _write(encoded, scale, twice.astype(np.int8).reshape(-1))


ENCODERS: dict[DType, Callable[[Patterns, DType, NDArray[np.uint8]], None]] = {DType.Q4_0: _q4_0, DType.Q8_0: _q8_0}


def _lanes(elements: Patterns) -> Patterns:
    """(blocks, 32) to (8, 4 * blocks): row i has the elements 4i to 4i + 3 of every block."""
    units = elements.view(f"V{4 * elements.itemsize}")  # four elements, moved together
    # Always a copy: a single block lies in order both ways, and the lanes are overwritten.
    return np.array(units.T, order="C").view(elements.dtype)


def _first_largest(lanes: Patterns, elements: Patterns) -> Patterns:
    """The first of the elements farthest from zero, for every block."""
    positive, negative = _largest(lanes.view(f"i{lanes.itemsize}")), _largest(lanes)
    keys = _sign_last(positive.view(lanes.dtype)), _sign_last(negative)
    largest = np.maximum(*keys)
    one = lanes.dtype.type(1)
    found: Patterns = largest >> one | largest << lanes.dtype.type(8 * lanes.itemsize - 1)
    ties = np.flatnonzero(keys[0] ^ keys[1] == one)  # equally far on both sides: look which comes first
    tied = elements[ties]
    found[ties] = tied[np.arange(len(ties)), (tied << one).argmax(axis=1)]
    return found


def _largest(lanes: NDArray[Any]) -> NDArray[Any]:
    """The largest integer of every block, (8, 4 * blocks) to (blocks,)."""
    fours = np.maximum.reduce(lanes, axis=0).reshape(-1, 4)
    largest: NDArray[Any] = np.maximum.reduce(np.ascontiguousarray(fours.T), axis=0)
    return largest


def _sign_last(patterns: Patterns) -> Patterns:
    """The sign bit moved to the end, so that the integers are in the order of magnitude."""
    moved: Patterns = patterns << patterns.dtype.type(1) | patterns >> patterns.dtype.type(8 * patterns.itemsize - 1)
    return moved


def _floats(patterns: Patterns, source: DType) -> Floats:
    """What the patterns stand for. Of single precision a view, otherwise a copy."""
    if source is DType.FLOAT32:
        return patterns.view(np.float32)
    if source is DType.FLOAT16:
        return _halves(patterns)
    wide = patterns.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def _halves(patterns: Patterns) -> Floats:
    """Half precision in single precision; numpy's own cast takes seven times as long."""
    exponent = np.uint16(0x7C00)
    if (patterns & exponent == exponent).any():  # infinities and NaNs, which the quick way reads as numbers
        return patterns.view(np.float16).astype(np.float32)
    wide = patterns.view(np.int16).astype(np.int32)
    wide <<= np.int32(13)
    wide &= np.int32(-0x70002000)  # the sign, and what was the exponent and mantissa
    floats = wide.view(np.float32)
    floats *= np.float32(2.0**112)  # The exponents are counted from another place. Exact, for subnormals too.
    return floats


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 for 0. Where that is infinite, NaN, which makes all codes 0, as they are with ggml."""
    inverse: Floats = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = np.nan
    inverse[scale == 0] = 0
    return inverse


def _for_lanes(factors: Floats) -> Floats:
    """Each block's factor four times, (blocks,) to (4 * blocks,). Unlike np.repeat it lets other threads run."""
    fours = np.empty((len(factors), 4), np.float32)
    for index in range(4):
        fours[:, index] = factors
    return fours.reshape(-1)


def _write(encoded: NDArray[np.uint8], scale: Floats, lanes: NDArray[Any]) -> None:
    """Scale and codes to their places. lanes: the bytes of the codes, in order but for lying in lanes of 4 a block."""
    rows = lanes.view(np.uint32).reshape(-1, len(scale))
    blocks = encoded.reshape(-1).view([("scale", "<f2"), ("codes", "<u4", (len(rows),))])
    blocks["scale"] = scale
    for index, row in enumerate(rows):
        blocks["codes"][:, index] = row
