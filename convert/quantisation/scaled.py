"""Weights of one byte with scales apart: the FP8 and INT8 checkpoints of Meta, fbgemm and compressed-tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import CheckpointError

CHUNK = 1 << 16  # elements looked up at a time


def decode_scaled(
    block: NDArray[np.uint8], dtype: DType, scale: NDArray[np.float32], tile: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Element * scale in single precision, (rows, columns) to (rows, columns).

    block: whole rows, one byte an element. dtype: one of TABLES.
    scale: without a tile one number, of any shape, or one for each row of the block, (rows,) or (rows, 1).
    tile: (rows, columns) that share a scale; then scale is (tiles down, tiles across), the last ones may be
    cut off, and the block must begin where a tile does.
    The elements are exact, the product is rounded once, as that of `weight.float() * scale` in torch.
    Raises CheckpointError when there are not as many scales as that.
    Memory: the result, and about 1 MB. Source: transformers, integrations/fbgemm_fp8.py and
    finegrained_fp8.py; llama-models, models/llama3/quantization/loader.py.
    """
    elements = _looked_up(block, _table(dtype))
    with np.errstate(invalid="ignore", over="ignore"):
        if tile is None:
            elements *= _for_rows(scale, len(block))
        else:
            _multiply_tiles(elements, scale, *tile)
    return elements


def _for_rows(scale: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """(1, 1) or (rows, 1)."""
    if scale.size != 1 and scale.shape not in ((rows,), (rows, 1)):
        raise _misfit(f"{rows:,} rows have scales of shape {scale.shape}, wanted one, or one a row")
    return scale.reshape(-1, 1)


def _multiply_tiles(elements: NDArray[np.float32], scale: NDArray[np.float32], down: int, across: int) -> None:
    rows, columns = elements.shape
    wanted = (-(-rows // down), -(-columns // across))
    if scale.shape != wanted:
        raise _misfit(f"{rows:,} x {columns:,} elements have scales of shape {scale.shape}, wanted {wanted}")
    for index, row in enumerate(scale):
        elements[index * down : (index + 1) * down] *= np.repeat(row, across)[:columns]


def _misfit(summary: str) -> CheckpointError:
    advice = "The scales belong to another tensor, or are cut in another way than the configuration says."
    return CheckpointError(summary, advice=advice)


def _looked_up(block: NDArray[np.uint8], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """The table's entry for every byte. In pieces: numpy first makes indexes of 8 bytes from them."""
    entries = np.empty(block.shape, np.float32)
    step = max(CHUNK // max(block.shape[1], 1), 1)
    for start in range(0, len(block), step):
        piece = slice(start, start + step)
        np.take(table, block[piece], out=entries[piece], mode="clip")  # The other modes copy; no byte is out of range.
    return entries


def _e4m3() -> NDArray[np.float32]:
    """Four bits of exponent, three of mantissa; no infinities. Source: arXiv 2209.05433, table 1 (E4M3)."""
    exponent, mantissa = np.arange(128) >> 3, np.arange(128) & 7
    whole = mantissa + np.where(exponent > 0, 8, 0)
    positive: NDArray[np.float32] = np.ldexp(whole.astype(np.float32), np.maximum(exponent, 1) - 10)
    positive[127:] = np.array([0x7FF00000], np.uint32).view(np.float32)  # NaN, with the bits torch gives it
    table: NDArray[np.float32] = np.concatenate([positive, -positive])
    return table


def _e5m2() -> NDArray[np.float32]:
    """Five bits of exponent, two of mantissa: the upper half of half precision."""
    values: NDArray[np.float32] = (np.arange(256, dtype=np.uint16) << np.uint16(8)).view(np.float16).astype(np.float32)
    values.view(np.uint32)[np.isnan(values)] |= np.uint32(1 << 22)  # NaNs made quiet, as torch does
    return values


def _int8() -> NDArray[np.float32]:
    return np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)


# What each of the 256 bytes means.
TABLES: dict[DType, Callable[[], NDArray[np.float32]]] = {
    DType.FLOAT8_E4M3: _e4m3,
    DType.FLOAT8_E5M2: _e5m2,
    DType.INT8: _int8,
}


@cache
def _table(dtype: DType) -> NDArray[np.float32]:
    return TABLES[dtype]()
