"""The tensors level: every weight of B is the same weight of A, bit for bit where B's type lets that be said.

Of a quantised type whose codes nothing can recompute, a weight may be as far from A's as the type makes it,
all together and row by row.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from llama_convert.convert.architecture import Role, Weight, weights
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.errors import counted
from llama_convert.verify.distances import Difference, Distance, added, difference
from llama_convert.verify.expectations import MEASURED, expectation
from llama_convert.verify.reading import recomputable, rounded_like, stored_type
from llama_convert.verify.report import Detail, LevelResult, Outcome, judged
from llama_convert.verify.views import View, canonical, row_numbers, views

NAME = "tensors"
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorResult:
    """One weight compared.

    cast: B stores another type, and is held against A's values rounded to it.
    difference: None where all is equal, or judged by its error. problem: why nothing could be compared.
    not_finite: NaN and infinities, by the name of the tensor that has them.
    relative_error: ||B - A|| / ||A||, before A is rounded; None where all is equal bit for bit, or nothing
    could be compared. type: in which B stores it, where that is quantised. allowed: the largest error, where it
    is judged by that: nothing can recompute the type's codes.
    strays: rows that no rounding brought so far away; `place` is the first of them.
    """

    weight: Weight
    elements: int
    cast: bool
    difference: Difference | None
    not_finite: dict[str, int]
    problem: str | None = None
    relative_error: float | None = None
    type: str | None = None
    allowed: float | None = None
    strays: int = 0
    place: str = ""

    @property
    def right(self) -> bool:
        """Whether each element is what it should be, as far as the type it is stored in lets that be said."""
        if self.difference is not None or self.problem is not None or self.strays:
            return False
        return self.allowed is None or (self.relative_error is not None and self.relative_error <= self.allowed)

    @property
    def ratio(self) -> float:
        """Its error as a part of the allowed one; 0 where it must be equal."""
        return self.relative_error / self.allowed if self.relative_error is not None and self.allowed else 0.0


def check_tensors(a: Checkpoint, b: Checkpoint | None) -> LevelResult:
    """Whether B's weights are A's; with A alone, whether its copies agree."""
    return judge_tensors(list(compare_tensors(a, b)), alone=b is None)


def judge_tensors(results: list[TensorResult], *, alone: bool) -> LevelResult:
    """The level's result for all weights. Values that are NaN or infinite are warnings, which name the tensor."""
    findings = tuple(_finding(result) for result in results if not result.right)
    warnings = tuple(
        f"{name}: {counted(count, 'value')} NaN or infinite"
        for result in results
        for name, count in result.not_finite.items()
    )
    measures = _measures(results)
    # NaN may be meant, in rows that no token uses: whether the model still computes, the logits tell.
    return judged(
        NAME,
        _figures(results, measures, alone=alone),
        findings,
        warnings,
        measures=measures,
        gate=1.0 if measures["by_error"] else None,
        details=() if alone else tuple(map(_detail, results)),
    )


def _detail(result: TensorResult) -> Detail:
    """A weight that must be equal has nothing between it and what it should be, or the error that it has."""
    must_be_equal = result.allowed is None and result.problem is None
    return Detail(
        name=result.weight.role.value,
        layer=result.weight.layer,
        outcome=_outcome(result),
        difference=0.0 if must_be_equal and result.right else result.relative_error,
        gate=0.0 if must_be_equal else result.allowed,
    )


def _outcome(result: TensorResult) -> Outcome:
    if result.problem is not None:
        return Outcome.MISSING
    if not result.right:
        return Outcome.FAR
    if result.allowed is not None:
        return Outcome.NEAR
    return Outcome.ROUNDED if result.cast else Outcome.EQUAL


def _measures(results: list[TensorResult]) -> dict[str, float | int | str]:
    """worst_error: the largest of the errors as parts of those allowed; the gate is 1."""
    return {
        "tensors": len(results),
        "right": sum(result.right for result in results),
        "rounded": sum(result.cast for result in results),
        "by_error": sum(result.allowed is not None for result in results),
        "worst_error": max((result.ratio for result in results), default=0.0),
        "values": sum(result.elements for result in results),
    }


def _figures(results: list[TensorResult], measures: Mapping[str, float | int | str], *, alone: bool) -> str:
    values = f"{measures['values']:,} values"
    if alone:
        return f"{len(results)} tensors, {values} read"
    exact, by_error = ([found for found in results if (found.allowed is None) is side] for side in (True, False))
    rounded = f", {measures['rounded']} of them after rounding to the other type" if measures["rounded"] else ""
    parts = [f"{sum(result.right for result in exact)} of {len(exact)} tensors bit for bit equal{rounded}"]
    if by_error:
        right = sum(result.right for result in by_error)
        parts.append(
            f"{right} of {len(by_error)} as near as their quantised types explain, with up to "
            f"{measures['worst_error']:.2f} of the error allowed"
        )
    return "; ".join([*parts, f"{values} compared"])


def _finding(result: TensorResult) -> str:
    """Both, where both are wrong: a row that is another says more than an error."""
    if result.problem is not None:
        return f"{result.weight}: {result.problem}"
    if result.difference is not None:
        found = result.difference
        return (
            f"{result.weight}: {found.count:,} of {result.elements:,} values differ, by up to {found.largest:.3g}, "
            f"first in {found.place}; {_error(result)}"
        )
    strays = f"; {counted(result.strays, 'row')} too far away, first {result.place}" if result.strays else ""
    return f"{result.weight}: {_error(result)}{strays}"


def _error(result: TensorResult) -> str:
    explained = f", {result.type} explains {expectation(result.type).relative_error:.2g}" if result.type else ""
    return f"relative error {result.relative_error:.3g}{explained}"


def compare_tensors(a: Checkpoint, b: Checkpoint | None) -> Iterator[TensorResult]:
    """Each weight compared, one after the other, in the order of the forward pass.

    The output head is among them unless both sides use the embedding; where one does, the other's head is
    held against that embedding.
    Cost: every weight read once, in as many threads as there are cores, up to four; for each a few blocks of rows in
    memory.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="compare") as pool:
        yield from pool.map(lambda weight: compare_tensor(a, b, weight), _needed([a] if b is None else [a, b]))


def _needed(sides: list[Checkpoint]) -> list[Weight]:
    """What any side has, so that nothing is left over on the other."""
    found = dict.fromkeys(weight for side in sides for weight in weights(side.config))
    head = Weight(Role.HEAD)
    return list(found | dict.fromkeys([head] if any(head in side.parts for side in sides) else []))


def compare_tensor(a: Checkpoint, b: Checkpoint | None, weight: Weight) -> TensorResult:
    """One weight: all of A's copies and all of B's against A's first."""
    of_a, of_b = views(a, weight), views(b, weight) if b else ()
    shape = a.config.shape(weight.role)
    found = TensorResult(weight=weight, elements=prod(shape), cast=False, difference=None, not_finite={})
    problem = _incomparable(a, b, weight)
    if problem:
        return replace(found, problem=problem)
    first, others = of_a[0], [*of_a[1:], *of_b]
    inexact = _coarsest(name for view in others for name in _inexact(first, view))
    if inexact is not None:
        return _judged_by_error(found, first, others, inexact)
    different, not_finite = _compare(first, others, shape)
    return replace(
        found,
        cast=any(view.dtype is not first.dtype for view in of_b),
        difference=different,
        not_finite=not_finite,
        # Read again, which only a tensor that is wrong costs.
        relative_error=_largest(_distances(first, others, shape, {})) if different else None,
        type=_coarsest(name for view in others for name in view.types),
    )


def _coarsest(names: Iterable[str]) -> str | None:
    """Of the quantised ones."""
    return max((name for name in names if name in MEASURED), key=lambda name: MEASURED[name], default=None)


def _inexact(reference: View, view: View) -> set[str]:
    """The types that nothing can recompute; none where they are A's own: codes that were moved are as they were."""
    if view.types == reference.types:
        return set()
    return {stored_type(piece) for piece in view.parts.pieces if not recomputable(piece)}


def _judged_by_error(found: TensorResult, reference: View, others: list[View], type: str) -> TensorResult:
    """As far away as its type makes it; a row, which can be unlucky, half the way more, in logarithms, to its norm."""
    allowed, shape = expectation(type).relative_error, reference.checkpoint.config.shape(reference.weight.role)
    not_finite: dict[str, int] = {}
    distances = list(_distances(reference, others, shape, not_finite))
    strays = [distance.strays(allowed**0.5) for distance in distances]
    places = [
        view.place(torch.arange(shape[0]), [int(rows[0])])
        for view, rows in zip(others, strays, strict=True)
        if len(rows)
    ]
    return replace(
        found,
        not_finite=not_finite,
        relative_error=_largest(distances),
        type=type,
        allowed=allowed,
        strays=sum(len(rows) for rows in strays),
        place=places[0] if places else "",
    )


def _distances(
    reference: View, others: list[View], shape: tuple[int, ...], not_finite: dict[str, int]
) -> list[Distance]:
    """Of each of the others from the reference."""
    distances = [Distance() for _ in others]
    for rows in row_numbers(reference, shape):
        wanted = canonical(reference, rows)
        _count_not_finite(not_finite, reference, wanted)
        for view, distance in zip(others, distances, strict=True):
            found = canonical(view, rows)
            _count_not_finite(not_finite, view, found)
            distance.add(wanted, found)
    return distances


def _largest(distances: list[Distance]) -> float:
    """Of their errors; NaN where one is."""
    return float(np.max([distance.relative for distance in distances]))


def _incomparable(a: Checkpoint, b: Checkpoint | None, weight: Weight) -> str | None:
    sides = [a] if b is None else [a, b]
    missing = [str(side.path) for side in sides if not views(side, weight)]
    shapes = [side.config.shape(weight.role) for side in sides]
    if missing:
        return f"not in {missing[0]}"
    return f"{shapes[0]} against {shapes[1]}" if len(set(shapes)) > 1 else None


def _compare(reference: View, others: list[View], shape: tuple[int, ...]) -> tuple[Difference | None, dict[str, int]]:
    """All differences taken together, and the values that are no numbers."""
    different: Difference | None = None
    not_finite: dict[str, int] = {}
    for rows in row_numbers(reference, shape):
        wanted = canonical(reference, rows)
        _count_not_finite(not_finite, reference, wanted)
        for view in others:
            found = canonical(view, rows)
            wrong = _block_difference(view, rows, wanted, found)
            if wrong or wanted.dtype is not found.dtype:  # else they are A's, and counted
                _count_not_finite(not_finite, view, found)
            different = added(different, wrong)
    return different, not_finite


def _count_not_finite(counts: dict[str, int], view: View, values: Tensor) -> None:
    """Smallest and largest first: a fortieth of the time of looking at each value, and both pass a NaN on."""
    extremes = torch.stack(torch.aminmax(values))
    if not extremes.isfinite().all():
        counts[view.name] = counts.get(view.name, 0) + int((~values.isfinite()).sum())


def _block_difference(view: View, rows: Tensor, wanted: Tensor, found: Tensor) -> Difference | None:
    rounded = rounded_like(wanted, view.parts.pieces[0]).to(found.dtype)
    return difference(rounded, found, lambda index: view.place(rows, index), cast=wanted.dtype is not found.dtype)
