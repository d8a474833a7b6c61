"""ggml's k-quants: 256 elements in groups of 16 or 32, which have small integer scales of their own.

Every function takes blocks (blocks,) in the type's layout and returns (blocks, 256), the same bits as
ggml's own code; the order of the products counts. Source: ggml/src/ggml-quants.c, dequantize_row_*_K.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.quantisation.bits import Blocks, Elements, by_block, by_group, signed, split


def q2_k(blocks: Blocks) -> Elements:
    """2 bits * scale - minimum, both by group of 16."""
    scales = by_block(blocks["scale"], blocks["scales"] & np.uint8(15))
    minima = by_block(blocks["minimum"], blocks["scales"] >> np.uint8(4))
    return by_group(scales, split(blocks["quants"], 2, 32), minima)


def q3_k(blocks: Blocks) -> Elements:
    """(3 bits - 4) * scale, by group of 16."""
    quants = split(blocks["quants"], 2, 32) | split(blocks["highs"], 1, 32) << np.uint8(2)
    low, high = split(blocks["scales"][:, :8], 4, 8), split(blocks["scales"][:, 8:], 2, 4)
    scales = by_block(blocks["scale"], signed(low | high << np.uint8(4), 32))
    return by_group(scales, signed(quants, 4))


def q4_k(blocks: Blocks) -> Elements:
    """4 bits * scale - minimum, both by group of 32."""
    return _affine(blocks, split(blocks["quants"], 4, 32))


def q5_k(blocks: Blocks) -> Elements:
    """5 bits * scale - minimum, both by group of 32."""
    return _affine(blocks, split(blocks["quants"], 4, 32) | split(blocks["highs"], 1, 32) << np.uint8(4))


def q6_k(blocks: Blocks) -> Elements:
    """(6 bits - 32) * scale, by group of 16."""
    quants = split(blocks["quants"], 4, 64) | split(blocks["highs"], 2, 32) << np.uint8(4)
    return by_group(by_block(blocks["scale"], blocks["scales"]), signed(quants, 32))


def _affine(blocks: Blocks, quants: NDArray[np.uint8]) -> Elements:
    """Quants * scale - minimum, with eight scales and eight minima of 6 bits in 12 bytes.

    Four of each lie in the low bits of the first eight bytes, the rest in the last four bytes, with their
    highest two bits on top of the first eight.
    """
    first, second, third = (blocks["scales"][:, start : start + 4] for start in (0, 4, 8))
    low, high = np.uint8(63), np.uint8(48)
    scales = np.hstack([first & low, third & np.uint8(15) | first >> np.uint8(2) & high])
    minima = np.hstack([second & low, third >> np.uint8(4) | second >> np.uint8(2) & high])
    return by_group(by_block(blocks["scale"], scales), quants, by_block(blocks["minimum"], minima))
