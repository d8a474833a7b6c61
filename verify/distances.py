"""How values differ from those wanted: bit for bit, or by how far, of a whole tensor and of each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, sqrt

import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Elements that are not what they should be.

    count: how many. largest: of their absolute differences, infinite where a NaN is among them.
    place: the first of them; the index is that of the whole weight as its checkpoint stores it.
    """

    count: int
    largest: float
    place: str


def difference(wanted: Tensor, found: Tensor, place: Callable[[list[int]], str], *, cast: bool) -> Difference | None:
    """The elements whose bits differ, so that -0.0 is not 0.0; of a NaN that was `cast`, any NaN may come.

    place: what to call an element, by its index.
    """
    bits = _BITS[found.dtype.itemsize]
    if torch.equal(wanted.view(bits), found.view(bits)):
        return None
    wrong = wanted.view(bits) != found.view(bits)
    if cast:
        wrong &= ~(wanted.isnan() & found.isnan())
    if not wrong.any():
        return None
    gaps = (wanted[wrong].double() - found[wrong].double()).abs().nan_to_num(nan=torch.inf)
    first = [int(axis) for axis in wrong.nonzero()[0]]
    return Difference(count=int(wrong.sum()), largest=float(gaps.max()), place=place(first))


def added(known: Difference | None, more: Difference | None) -> Difference | None:
    """Both taken together; the place is that of the known one."""
    if known is None or more is None:
        return known or more
    return Difference(count=known.count + more.count, largest=max(known.largest, more.largest), place=known.place)


@dataclass(slots=True)
class Distance:
    """Squares of differences and of the wanted values, summed row by row in double precision.

    Memory: two numbers a row.
    """

    _differences: list[Tensor] = field(default_factory=list)
    _wanted: list[Tensor] = field(default_factory=list)

    def add(self, wanted: Tensor, found: Tensor) -> None:
        """The next rows."""
        exact = wanted.double().reshape(len(wanted), -1)
        self._wanted.append(exact.square().sum(1))
        self._differences.append((found.double().reshape(exact.shape) - exact).square_().sum(1))

    @property
    def relative(self) -> float:
        """||found - wanted|| / ||wanted||, over all rows; NaN where a value is."""
        difference, wanted = (float(torch.cat(sums).sum()) for sums in (self._differences, self._wanted))
        return sqrt(difference / wanted) if wanted else 0.0 if difference == 0 else inf

    def strays(self, limit: float) -> Tensor:
        """The rows that are further away than `limit` times their norm.

        Of rows shorter than the average, times the average's: tokens never trained have rows near zero, which
        vanish in the steps of a type.
        """
        differences, wanted = torch.cat(self._differences), torch.cat(self._wanted)
        fine = differences <= limit**2 * torch.maximum(wanted, wanted.mean())
        return (~fine).nonzero().flatten()
