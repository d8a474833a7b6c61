"""Rows for new tokens, made from the rows of old ones: a block at a time, in numpy, rounded once at the end.

Sums are float64: for half-precision weights of one size they are exact, so the result does not depend on the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.arithmetic import cast
from llama_convert.convert.containers.slices import DType

Block = NDArray[np.uint8]
Sums = NDArray[np.float64]

# transformers scales the covariance by this, so that new rows differ a little and stay near the mean.
_SPREAD = 1e-9


def mean_row(blocks: Iterable[Block], source: DType, wanted: DType) -> Block:
    """The mean of all rows that are finite, (1, bytes), in the wanted type.

    Memory: one block in float32. Cost: one reading; about 1.5 GB/s of bfloat16 on one core.
    """
    total: Sums = np.zeros(1)
    count = 0
    for block in blocks:
        values = _values(block, source)
        with np.errstate(invalid="ignore"):
            part = values.sum(axis=0, dtype=np.float64)
        if not np.isfinite(part).all():  # asked of the sum, for that costs next to nothing
            values = _finite(values)
            part = values.sum(axis=0, dtype=np.float64)
        total, count = total + part, count + len(values)
    return _rounded(total[None] / max(count, 1), wanted)


def normal_rows(blocks: Iterable[Block], source: DType, wanted: DType, numbers: Sequence[int], seed: int) -> Block:
    """One random row for each number, (len(numbers), bytes): normal, with the rows' mean and 1e-9 of their covariance.

    The distribution is that of transformers' mean resizing. It is drawn without a covariance matrix: with z normal
    and independent for each of N rows x, mean + sqrt(1e-9 / N) * sum of z (x - mean) has exactly that covariance.
    A number's row is the same whatever other numbers are asked for. Memory: two new rows in float64 for each number.
    Source: transformers modeling_utils.py, _init_added_embeddings_weights_with_mean.
    """
    generators = [np.random.default_rng((seed, number)) for number in numbers]
    total: Sums = np.zeros(1)
    noise: Sums = np.zeros((len(numbers), 1))
    weight: Sums = np.zeros((len(numbers), 1))
    count = 0
    for block in blocks:
        values = _finite(_values(block, source)).astype(np.float64)
        drawn = np.stack([generator.standard_normal(len(values)) for generator in generators])
        total, noise = total + values.sum(axis=0), noise + drawn @ values
        weight, count = weight + drawn.sum(axis=1, keepdims=True), count + len(values)
    mean = total[None] / max(count, 1)
    return _rounded(mean + np.sqrt(_SPREAD / max(count, 1)) * (noise - weight * mean), wanted)


def _values(block: Block, dtype: DType) -> NDArray[np.float32]:
    return cast(block, dtype, DType.FLOAT32).view(np.float32)


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without the rows that hold NaN or infinities: of tokens that are never used, they would spoil every new row."""
    kept = np.isfinite(values).all(axis=1)
    return values if kept.all() else values[kept]


def _rounded(values: Sums, dtype: DType) -> Block:
    """float64 values in the type, rounded to nearest even as if at once.

    Halfway to a narrower type they are rounded to odd: a tie that only the first rounding made is then none.
    """
    found = values.astype(np.float32)
    if dtype is not DType.FLOAT32:
        bits = found.view(np.uint32)
        bits -= np.abs(found.astype(np.float64)) > np.abs(values)  # towards zero
        bits |= found.astype(np.float64) != values
    return cast(np.ascontiguousarray(found).view(np.uint8), DType.FLOAT32, dtype)
