"""Mistakes in the rotary order of the rows of q and k: left out, made twice, made with other heads.

Row numbers are canonical: the coordinates of a pair lie next to each other in each head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from llama_convert.convert.architecture import ROTARY_ROLES, Role, Rotary
from llama_convert.verify.hypothesis import Hypothesis, moved
from llama_convert.verify.samples import Sample


def to_halves(size: int, rows: Tensor) -> Tensor:
    """Where rows that lie in pairs come to lie in half-split order; size: rows of a head."""
    inner = rows % size
    return rows - inner + inner // 2 + inner % 2 * (size // 2)


def to_pairs(size: int, rows: Tensor) -> Tensor:
    """The way back."""
    inner = rows % size
    return rows - inner + inner % (size // 2) * 2 + inner // (size // 2)


def reorders(sample: Sample) -> Iterator[Hypothesis]:
    """All of them; none for weights whose rows are no heads."""
    size, role = sample.a.config.head_dim, sample.weight.role
    into, back = partial(to_halves, size), partial(to_pairs, size)
    declared = sample.b.rotary
    if declared is Rotary.PAIRS:
        into, back = back, into
    if role in ROTARY_ROLES:
        other = Rotary.PAIRS if declared is Rotary.HALVES else Rotary.HALVES
        yield moved(sample, "rotary-order", into, f"{other.value} where {declared.value} is declared")
        yield moved(sample, "rotary-order-twice", back, declared.value)
        yield from _other_heads(sample, size)
    if role is Role.VALUE:
        yield moved(sample, "values-reordered", into)
        yield moved(sample, "values-reordered", back)


def _other_heads(sample: Sample, size: int) -> Iterator[Hypothesis]:
    rows = sample.shape[0]
    for other in range(2, rows + 1, 2):
        if rows % other == 0 and other != size:
            detail = f"{rows // other} heads of {other} rows; they are {rows // size} of {size}"
            for first, second in ((size, other), (other, size)):
                yield moved(sample, "wrong-heads-in-reorder", partial(_reordered, first, second), detail)


def _reordered(first: int, second: int, rows: Tensor) -> Tensor:
    """Put in order with heads of one size, read with heads of another."""
    return to_pairs(second, to_halves(first, rows))
