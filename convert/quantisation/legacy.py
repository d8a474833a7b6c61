"""ggml's first types: 32 elements, one scale; and the three-valued types, 256 elements, one scale.

Every function takes blocks (blocks,) in the type's layout and returns (blocks, elements), the same bits as
ggml's own code. Source: ggml/src/ggml-quants.c, dequantize_row_*.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.quantisation.bits import Blocks, Elements, by_block, signed, split


def q4_0(blocks: Blocks) -> Elements:
    """(4 bits - 8) * scale."""
    return by_block(blocks["scale"], signed(split(blocks["quants"], 4, 16), 8))


def q4_1(blocks: Blocks) -> Elements:
    """4 bits * scale + minimum."""
    return _affine(blocks, split(blocks["quants"], 4, 16))


def q5_0(blocks: Blocks) -> Elements:
    """(5 bits - 16) * scale."""
    return by_block(blocks["scale"], signed(_five_bits(blocks), 16))


def q5_1(blocks: Blocks) -> Elements:
    """5 bits * scale + minimum."""
    return _affine(blocks, _five_bits(blocks))


def q8_0(blocks: Blocks) -> Elements:
    """8 bits with a sign * scale."""
    return by_block(blocks["scale"], blocks["quants"])


def tq1_0(blocks: Blocks) -> Elements:
    """-1, 0 or 1 * scale, five a byte."""
    parts = [_digits(blocks["quants"], 5), _digits(blocks["tail"], 5), _digits(blocks["lasts"], 4)]
    return by_block(blocks["scale"], signed(np.concatenate(parts, axis=1), 1))


def tq2_0(blocks: Blocks) -> Elements:
    """-1, 0, 1 (or 2, which no one writes) * scale, four a byte."""
    return by_block(blocks["scale"], signed(split(blocks["quants"], 2, 32), 1))


def _affine(blocks: Blocks, integers: NDArray[np.uint8]) -> Elements:
    elements = by_block(blocks["scale"], integers)
    elements += blocks["minimum"].astype(np.float32)[:, None]
    return elements


def _five_bits(blocks: Blocks) -> NDArray[np.uint8]:
    integers: NDArray[np.uint8] = split(blocks["quants"], 4, 16) | split(blocks["highs"], 1, 1) << np.uint8(4)
    return integers


def _digits(packed: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The first `count` digits, base 3, of the fractions packed / 256; of all bytes the first, then the second ..."""
    powers = np.array([3**place for place in range(count)], np.uint8)[:, None]
    fractions = packed[:, None, :] * powers  # Overflow is meant: it drops the digits before.
    digits: NDArray[np.uint16] = fractions.astype(np.uint16) * np.uint16(3) >> np.uint16(8)
    return digits.astype(np.uint8).reshape(len(packed), -1)
