"""One mistake that may explain a weight, with the rows that B would have if it had been made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from torch import Tensor

from llama_convert.convert.architecture import Weight
from llama_convert.verify.samples import Sample

# Canonical rows of B -> the canonical rows of A that they would be.
RowMap: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """values: canonical rows of B -> A's values as the mistake would have put them there.

    within: the rows, first and behind the last, of which it says anything; None for all.
    """

    cause: str
    detail: str = ""
    values: Callable[[Tensor], Tensor]
    within: tuple[int, int] | None = None


def moved(
    sample: Sample,
    cause: str,
    rows: RowMap,
    detail: str = "",
    *,
    weight: Weight | None = None,
    within: tuple[int, int] | None = None,
) -> Hypothesis:
    """The hypothesis that B's rows are other rows of A, or those of another weight of A."""
    return Hypothesis(cause=cause, detail=detail, values=partial(_moved, sample, rows, weight), within=within)


def _moved(sample: Sample, move: RowMap, weight: Weight | None, rows: Tensor) -> Tensor:
    return sample.values(move(rows), weight)
