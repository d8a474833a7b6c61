"""Elements of one type as elements of another: the only place of a conversion where numbers are rounded.

numpy alone: torch would cost 300 MB of memory and a second, and is no faster at this. Everything goes through
float32, which holds every other type exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.containers.slices import FLOATS, DType
from llama_convert.convert.quantisation import decode, encode_block

Bytes = NDArray[np.uint8]
Values = NDArray[np.float32]

# The bits of the exponent: all of them set is infinity or no number.
_EXPONENTS = {
    DType.FLOAT32: (np.uint32, 0x7F800000),
    DType.BFLOAT16: (np.uint16, 0x7F80),
    DType.FLOAT16: (np.uint16, 0x7C00),
}
# Bytes worked on at once: what lies in between stays in the CPU's cache.
_CHUNK = 1 << 18


def cast(block: Bytes, source: DType, target: DType) -> Bytes:
    """The block's elements rounded to another type, to nearest, ties to even. (rows, bytes) in and out.

    To a quantised type as ggml's own code rounds.
    """
    if target.block > 1 and source in FLOATS:
        return encode_block(block, source, target)
    rows = max(_CHUNK // max(block.shape[1], 1), 1)
    found = np.empty((block.shape[0], target.size(block.shape[1] // source.nbytes * source.block)), np.uint8)
    for start in range(0, block.shape[0], rows):
        part = slice(start, start + rows)
        found[part] = _from_values(_to_values(block[part], source), target)
    return found


def _to_values(block: Bytes, dtype: DType) -> Values:
    """The block's elements in float32, exactly; (rows, bytes) in, (rows, elements) out."""
    if dtype is DType.FLOAT32:
        return np.ascontiguousarray(block).view(np.float32)
    if dtype is DType.BFLOAT16:
        return (np.ascontiguousarray(block).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype is DType.FLOAT16:
        return np.ascontiguousarray(block).view(np.float16).astype(np.float32)
    return decode(block, dtype)


def _from_values(values: Values, dtype: DType) -> Bytes:
    """float32 elements rounded to the type; (rows, elements) in, (rows, bytes) out."""
    if dtype is DType.FLOAT32:
        return values.view(np.uint8)
    if dtype is DType.BFLOAT16:
        return _to_bfloat16(values).view(np.uint8)
    if dtype is DType.FLOAT16:
        with np.errstate(over="ignore", under="ignore"):  # to infinity and to zero: as rounding goes
            return values.astype(np.float16).view(np.uint8)
    return encode_block(values.view(np.uint8), DType.FLOAT32, dtype)


def _to_bfloat16(values: Values) -> NDArray[np.uint16]:
    """The upper half of the bits, after adding what makes half of the lower ones carry, or just less on ties."""
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    found = rounded.astype(np.uint16)
    nan = np.isnan(values)  # whose low bits could carry into the sign
    if nan.any():
        found[nan] = 0x7FC0
    return found


def count_not_finite(block: Bytes, dtype: DType) -> int:
    """How many of the block's elements are NaN or infinite; those of a quantised type always are finite."""
    if dtype not in _EXPONENTS:
        return 0
    kind, exponent = _EXPONENTS[dtype]
    return int(np.count_nonzero((np.ascontiguousarray(block).view(kind) & exponent) == exponent))
