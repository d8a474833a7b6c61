"""What the bytes of a block are, for every quantised type of ggml. Source: ggml/src/ggml-common.h.

Fields: scale, and minimum where a type has one, are of the whole block, in half precision; scales are of its
groups. quants are the codes of the elements, highs the bits of them that do not fit there.
"""

from __future__ import annotations

import numpy as np

from llama_convert.convert.containers.slices import DType

_SCALE = ("scale", "<f2")
_MINIMUM = ("minimum", "<f2")


def _bytes(name: str, count: int) -> tuple[str, str, tuple[int]]:
    return name, "u1", (count,)


LAYOUTS: dict[DType, np.dtype[np.void]] = {
    DType.Q4_0: np.dtype([_SCALE, _bytes("quants", 16)]),
    DType.Q4_1: np.dtype([_SCALE, _MINIMUM, _bytes("quants", 16)]),
    DType.Q5_0: np.dtype([_SCALE, _bytes("highs", 4), _bytes("quants", 16)]),
    DType.Q5_1: np.dtype([_SCALE, _MINIMUM, _bytes("highs", 4), _bytes("quants", 16)]),
    DType.Q8_0: np.dtype([_SCALE, ("quants", "i1", (32,))]),
    DType.Q2_K: np.dtype([_bytes("scales", 16), _bytes("quants", 64), _SCALE, _MINIMUM]),
    DType.Q3_K: np.dtype([_bytes("highs", 32), _bytes("quants", 64), _bytes("scales", 12), _SCALE]),
    DType.Q4_K: np.dtype([_SCALE, _MINIMUM, _bytes("scales", 12), _bytes("quants", 128)]),
    DType.Q5_K: np.dtype([_SCALE, _MINIMUM, _bytes("scales", 12), _bytes("highs", 32), _bytes("quants", 128)]),
    DType.Q6_K: np.dtype([_bytes("quants", 128), _bytes("highs", 64), ("scales", "i1", (16,)), _SCALE]),
    # parts: of 32 elements each. signs: four patterns of 7 bits; in the 4 bits above them, the scale.
    DType.IQ2_XXS: np.dtype([_SCALE, ("parts", [_bytes("quants", 4), ("signs", "<u4")], (8,))]),
    DType.IQ2_XS: np.dtype([_SCALE, ("quants", "<u2", (32,)), _bytes("scales", 8)]),
    DType.IQ2_S: np.dtype([_SCALE, _bytes("quants", 32), _bytes("signs", 32), _bytes("highs", 8), _bytes("scales", 8)]),
    DType.IQ3_XXS: np.dtype([_SCALE, _bytes("quants", 64), ("signs", "<u4", (8,))]),
    DType.IQ3_S: np.dtype([_SCALE, _bytes("quants", 64), _bytes("highs", 8), _bytes("signs", 32), _bytes("scales", 4)]),
    DType.IQ1_S: np.dtype([_SCALE, _bytes("quants", 32), ("highs", "<u2", (8,))]),
    # The one type whose half-precision scale is spread: four bits of it lie on top of each word of scales.
    DType.IQ1_M: np.dtype([_bytes("quants", 32), _bytes("highs", 16), ("scales", "<u2", (4,))]),
    DType.IQ4_NL: np.dtype([_SCALE, _bytes("quants", 16)]),
    DType.IQ4_XS: np.dtype([_SCALE, _bytes("scales_high", 2), _bytes("scales_low", 4), _bytes("quants", 128)]),
    # quants and tail hold five three-valued digits a byte, lasts four.
    DType.TQ1_0: np.dtype([_bytes("quants", 32), _bytes("tail", 16), _bytes("lasts", 4), _SCALE]),
    DType.TQ2_0: np.dtype([_bytes("quants", 64), _SCALE]),
    DType.MXFP4: np.dtype([("scale", "u1"), _bytes("quants", 16)]),
    DType.NVFP4: np.dtype([_bytes("scales", 4), _bytes("quants", 32)]),
}
