"""Quantised weights of ggml in single precision again: one function for each type, chosen by a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.quantisation import four_bits, i_quants, k_quants, legacy
from llama_convert.convert.quantisation.bits import Blocks, Elements
from llama_convert.convert.quantisation.layouts import LAYOUTS

# Elements decoded at a time: few enough that what a decoder needs besides them stays in the CPU's cache.
CHUNK = 1 << 16

DECODERS: dict[DType, Callable[[Blocks], Elements]] = {
    DType.Q4_0: legacy.q4_0,
    DType.Q4_1: legacy.q4_1,
    DType.Q5_0: legacy.q5_0,
    DType.Q5_1: legacy.q5_1,
    DType.Q8_0: legacy.q8_0,
    DType.Q2_K: k_quants.q2_k,
    DType.Q3_K: k_quants.q3_k,
    DType.Q4_K: k_quants.q4_k,
    DType.Q5_K: k_quants.q5_k,
    DType.Q6_K: k_quants.q6_k,
    DType.IQ2_XXS: i_quants.iq2_xxs,
    DType.IQ2_XS: i_quants.iq2_xs,
    DType.IQ2_S: i_quants.iq2_s,
    DType.IQ3_XXS: i_quants.iq3_xxs,
    DType.IQ3_S: i_quants.iq3_s,
    DType.IQ1_S: i_quants.iq1_s,
    DType.IQ1_M: i_quants.iq1_m,
    DType.IQ4_NL: four_bits.iq4_nl,
    DType.IQ4_XS: four_bits.iq4_xs,
    DType.TQ1_0: legacy.tq1_0,
    DType.TQ2_0: legacy.tq2_0,
    DType.MXFP4: four_bits.mxfp4,
    DType.NVFP4: four_bits.nvfp4,
}


def decode(block: NDArray[np.uint8], dtype: DType) -> NDArray[np.float32]:
    """What quantised weights stand for, in single precision.

    block: whole rows, (rows, bytes per row). dtype: one of DECODERS. Returns (rows, elements per row).
    The same bits as ggml's own code, up to the payload of NaNs.
    Raises CheckpointError when a row is not made of whole blocks.
    Memory: the result, and a few hundred KiB.
    """
    if block.shape[1] % dtype.nbytes:
        raise CheckpointError(
            f"rows of {block.shape[1]:,} bytes are not made of {dtype.label} blocks of {dtype.nbytes} bytes",
            advice="The file says of the tensor what cannot be; get it again.",
        )
    blocks = np.ascontiguousarray(block).reshape(-1).view(LAYOUTS[dtype])
    elements = np.empty((len(blocks), dtype.block), np.float32)
    step = CHUNK // dtype.block
    with np.errstate(invalid="ignore", over="ignore"):  # scales can be infinite, NaN, or too large
        for start in range(0, len(blocks), step):
            elements[start : start + step] = DECODERS[dtype](blocks[start : start + step])
    return elements.reshape(len(block), block.shape[1] // dtype.nbytes * dtype.block)
