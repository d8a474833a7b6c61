"""ggml's i-quants: 256 elements, whose magnitudes are vectors of a code book, with signs and group scales apart.

Every function takes blocks (blocks,) in the type's layout and returns (blocks, 256), the same bits as
ggml's own code; the order of the products counts. Source: ggml/src/ggml-quants.c, dequantize_row_iq*.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.containers.slices import DType
from llama_convert.convert.quantisation.bits import Blocks, Elements, by_block, by_group, split
from llama_convert.convert.quantisation.grids import code_book, sign_patterns

_EIGHTH = np.float32(0.125)


def iq2_xxs(blocks: Blocks) -> Elements:
    """Vectors of 8, signs by pattern, a scale for every 32."""
    signs = blocks["parts"]["signs"]
    scales = _plus_half(blocks, signs >> np.uint32(28)) * np.float32(0.25)
    numbers = blocks["parts"]["quants"].reshape(len(blocks), -1)
    return _with_signs(scales, _vectors(DType.IQ2_XXS, numbers), _patterns(signs))


def iq2_xs(blocks: Blocks) -> Elements:
    """Vectors of 8, signs by pattern, a scale for every 16."""
    scales = _plus_half(blocks, split(blocks["scales"], 4, 1)) * np.float32(0.25)
    vectors = _vectors(DType.IQ2_XS, blocks["quants"] & np.uint16(511))
    return _with_signs(scales, vectors, sign_patterns().take(blocks["quants"] >> np.uint16(9)))


def iq2_s(blocks: Blocks) -> Elements:
    """Vectors of 8 from a larger book, a bit for every sign, a scale for every 16."""
    scales = _plus_half(blocks, split(blocks["scales"], 4, 1)) * np.float32(0.25)
    vectors = _vectors(DType.IQ2_S, blocks["quants"], split(blocks["highs"], 2, 1))
    return _with_signs(scales, vectors, blocks["signs"])


def iq3_xxs(blocks: Blocks) -> Elements:
    """Vectors of 4, signs by pattern, a scale for every 32."""
    scales = _plus_half(blocks, blocks["signs"] >> np.uint32(28)) * np.float32(0.5)
    return _with_signs(scales, _vectors(DType.IQ3_XXS, blocks["quants"]), _patterns(blocks["signs"]))


def iq3_s(blocks: Blocks) -> Elements:
    """Vectors of 4 from a larger book, a bit for every sign, a scale for every 32."""
    scales = _odd(blocks["scale"], split(blocks["scales"], 4, 1))
    vectors = _vectors(DType.IQ3_S, blocks["quants"], split(blocks["highs"], 1, 1))
    return _with_signs(scales, vectors, blocks["signs"])


def iq1_s(blocks: Blocks) -> Elements:
    """Vectors of 8, moved by an eighth up or down; the direction and a scale for every 32."""
    highs = blocks["highs"]
    scales = _odd(blocks["scale"], highs >> np.uint16(12) & np.uint16(7))
    vectors = _vectors(DType.IQ1_S, blocks["quants"], _threes(highs))
    return by_group(scales, _moved(vectors.reshape(len(blocks), 8, -1), highs >> np.uint16(15)))


def iq1_m(blocks: Blocks) -> Elements:
    """Vectors of 8, each moved by an eighth up or down; a scale for every 16."""
    highs = split(blocks["highs"], 4, 1)
    scales = _odd(_spread_scale(blocks["scales"]), _threes(blocks["scales"]))
    vectors = _vectors(DType.IQ1_S, blocks["quants"], highs & np.uint8(7))
    return by_group(scales, _moved(vectors, highs >> np.uint8(3)))


def _vectors(book: DType, low: NDArray[Any], high: NDArray[Any] | None = None) -> Elements:
    """Vectors by number, (blocks, vectors, length). high: what the numbers have beyond 8 bits."""
    numbers = low if high is None else low | high.astype(np.uint16) << np.uint16(8)
    return code_book(book).take(numbers, axis=0)


def _with_signs(scales: Elements, vectors: Elements, signs: NDArray[np.uint8]) -> Elements:
    """Vectors * the scale of their group, with a minus for each bit of signs, (blocks, 32)."""
    elements = by_group(scales, vectors)
    minuses = np.unpackbits(np.ascontiguousarray(signs), axis=1, bitorder="little")
    elements *= np.int8(1) - np.int8(2) * minuses.view(np.int8)
    return elements


def _moved(vectors: Elements, down: NDArray[Any]) -> Elements:
    """Vectors - 1/8 where down is 1, + 1/8 where it is 0. down: all axes of vectors but the last."""
    moved: Elements = vectors + np.where(down, -_EIGHTH, _EIGHTH)[:, :, None]
    return moved


def _plus_half(blocks: Blocks, scales: NDArray[Any]) -> Elements:
    """(0.5 + the scale of a group) * that of its block."""
    return by_block(blocks["scale"], scales.astype(np.float32) + np.float32(0.5))


def _odd(scale: NDArray[np.float16], scales: NDArray[Any]) -> Elements:
    """(1 + 2 * the scale of a group) * that of its block."""
    return by_block(scale, scales.astype(np.float32) * np.float32(2) + np.float32(1))


def _patterns(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The sign patterns that four times 7 bits name, (blocks, 8) to (blocks, 32)."""
    numbers: NDArray[np.uint32] = words[:, :, None] >> np.arange(0, 28, 7, dtype=np.uint32) & np.uint32(127)
    return sign_patterns().take(numbers).reshape(len(words), -1)


def _threes(words: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The four lowest threes of bits of each word, (blocks, words) to (blocks, words * 4)."""
    threes: NDArray[np.uint16] = words[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16) & np.uint16(7)
    return threes.reshape(len(words), -1)


def _spread_scale(words: NDArray[np.uint16]) -> NDArray[np.float16]:
    """The half-precision number whose four bits each lie on top of four words, the lowest in the first."""
    nibbles = words >> np.uint16(12) << np.arange(0, 16, 4, dtype=np.uint16)
    scale: NDArray[np.uint16] = np.bitwise_or.reduce(nibbles, axis=1)
    return scale.view(np.float16)
