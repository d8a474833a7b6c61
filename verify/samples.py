"""A few rows of one weight from both sides: enough to tell why the rest differs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.distances import Difference
from llama_convert.verify.reading import Piece, recomputable, rounded_like
from llama_convert.verify.views import canonical_rows, copies, stored_rows

ROWS = 48
# Rows on which a guess is tried before the others are read for it.
_FIRST = 2
# Where B is quantised in a way that nobody can repeat, its values lie nearer than this to the right ones, relative
# to their size: affine codes of 4 bits 0.08, of 2 bits 0.39. A wrong row lies 1.4 away.
_NEAR = 0.6
# In types that hold every value: what a cast on the way may have changed beside another mistake.
_ROUNDED = 0.02
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows of a weight that differs.

    copy: of B's copies, the one looked at. rows: canonical numbers, ascending. of_b: their values in B.
    difference: of the whole weight.
    """

    a: Checkpoint
    b: Checkpoint
    weight: Weight
    difference: Difference
    copy: int
    rows: Tensor
    of_b: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole weight's."""
        return self.a.config.shape(self.weight.role)

    @cached_property
    def of_a(self) -> Tensor:
        """A's values of the rows, as they are."""
        return self.values(self.rows)

    @cached_property
    def wanted(self) -> Tensor:
        """What B should hold in the rows."""
        return self.as_b_holds(self.of_a)

    @cached_property
    def different(self) -> Tensor:
        """For each row, whether B holds something else; of values quantised for good, how far is too far."""
        if self.exact:
            return _unequal(self.wanted, self.of_b)
        return torch.stack([torch.tensor(_gap(*pair) > _NEAR) for pair in zip(self.wanted, self.of_b, strict=True)])

    @property
    def piece(self) -> Piece:
        """What B stores the weight in."""
        stored = self.weight if self.weight in self.b.parts else Weight(Role.TOKENS)
        return self.b.parts[stored].pieces[0]

    @property
    def exact(self) -> bool:
        """Whether B's values can be computed from A's to the bit."""
        return recomputable(self.piece)

    @property
    def first(self) -> Tensor:
        """Some of the rows that differ, as places in `rows`."""
        return self.different.nonzero().flatten()[:_FIRST]

    def values(self, rows: Tensor, weight: Weight | None = None) -> Tensor:
        """A's values in any canonical rows, of another weight where one is named."""
        return canonical_rows(self.a, weight or self.weight, rows)

    def values_of_b(self, rows: Tensor) -> Tensor:
        """B's, of this weight."""
        return canonical_rows(self.b, self.weight, rows, self.copy)

    def as_b_holds(self, values: Tensor) -> Tensor:
        """Values of A in the type of B, as far as that can be computed."""
        rounded = rounded_like(values, self.piece) if self.exact else values
        return rounded.to(self.of_b.dtype)

    def mismatch(self, values: Tensor, places: Tensor) -> float:
        """0 where some of the rows of B hold exactly these values of A, as B stores them; else infinite."""
        return float("inf") if _unequal(self.as_b_holds(values), self.of_b[places]).any() else 0.0

    def error(self, values: Tensor, places: Tensor) -> float:
        """The relative error of these values of A; infinite where rounding alone does not explain it."""
        wanted, found = self.as_b_holds(values), self.of_b[places]
        found_error, limit = _gap(wanted, found), _ROUNDED if self.exact else _NEAR
        explained = found_error < limit and found_error < _gap(self.wanted[places], found) / 2
        return found_error if explained else float("inf")


def first_row(sample: Sample) -> int:
    """The first row that differs, in B's own order; between the sampled ones it is looked for by halving."""
    if sample.exact and place_in(sample.difference):
        return place_in(sample.difference)[0]
    place = int(sample.first[0])
    wrong, right = int(sample.rows[place]), int(sample.rows[place - 1]) if place else -1
    while wrong - right > 1:
        middle = (wrong + right) // 2
        row = torch.tensor([middle])
        if _gap(sample.as_b_holds(sample.values(row)), sample.values_of_b(row)) > _NEAR:
            wrong = middle
        else:
            right = middle
    return wrong


def sampled(a: Checkpoint, b: Checkpoint, weight: Weight, difference: Difference) -> Sample | None:
    """Rows spread over the weight and the first that is known to differ; None where the samples are all equal."""
    shape = a.config.shape(weight.role)
    for copy in range(copies(b, weight)):
        known = _known_row(b, weight, difference, copy)
        rows = torch.tensor(sorted({*_spread(shape), *known}))
        found = canonical_rows(b, weight, rows, copy)
        sample = Sample(a=a, b=b, weight=weight, difference=difference, copy=copy, rows=rows, of_b=found)
        if sample.different.any():
            return sample
    return None


def place_in(difference: Difference) -> list[int]:
    """The index of the first element that differs, in B's own rows; empty where none is named."""
    found = re.search(r"\[(\d+(?:, \d+)*)\]$", difference.place)
    return [int(number) for number in found[1].split(", ")] if found else []


def _known_row(b: Checkpoint, weight: Weight, difference: Difference, copy: int) -> list[int]:
    rows = torch.arange(b.config.shape(weight.role)[0])
    stored = stored_rows(b, weight.role, rows, copy)
    return [int(row) for index in place_in(difference)[:1] for row in rows[stored == index]]


def _spread(shape: tuple[int, ...]) -> list[int]:
    """Of a norm, every element."""
    if len(shape) == 1:
        return list(range(shape[0]))
    count = min(ROWS, shape[0])
    return [place * shape[0] // count for place in range(count)]


def _unequal(wanted: Tensor, found: Tensor) -> Tensor:
    """For each row, whether any bits differ; any NaN is like any other."""
    bits = _BITS[found.dtype.itemsize]
    wrong = (wanted.contiguous().view(bits) != found.contiguous().view(bits)) & ~(wanted.isnan() & found.isnan())
    return wrong.flatten(1).any(1) if wrong.dim() > 1 else wrong


def _gap(wanted: Tensor, found: Tensor) -> float:
    """Relative error."""
    size = found.double().norm()
    return float((wanted.double() - found.double()).norm() / size) if size else float("inf")


def first_element(sample: Sample) -> tuple[int, int]:
    """Row, as its place in the sample, and column of the first sampled element whose bits differ."""
    wanted, found = (side.reshape(len(sample.rows), -1).contiguous() for side in (sample.wanted, sample.of_b))
    bits = _BITS[found.dtype.itemsize]
    row, column = (wanted.view(bits) != found.view(bits)).nonzero()[0].tolist()
    return row, column
