"""The tensors level: every weight of B is the same weight of A, bit for bit.

Rows are compared by number. A weight has canonical rows: heads in their order without copies, and in each
head the two coordinates of a rotated pair next to each other. `stored_rows` says where a checkpoint stores
them; that is a bijection for each copy, so that equal rows mean that nothing was lost, added or exchanged.
It is arithmetic of its own: nothing of how the converter moves rows is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from llama_convert.convert.architecture import ROTARY_ROLES, Role, Rotary, Weight, weights
from llama_convert.convert.checkpoint import Checkpoint, Parts
from llama_convert.convert.errors import counted
from llama_convert.verify.reading import BLOCK_BYTES, read, rounded_like, torch_type, value_type
from llama_convert.verify.report import LevelResult, judged

NAME = "tensors"
_HEAD_ROLES = (Role.QUERY, Role.KEY, Role.VALUE)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorResult:
    """One weight compared.

    cast: B stores another type, and is held against A's values rounded to it.
    difference: None where all is equal. problem: why nothing could be compared.
    not_finite: NaN and infinities, by the name of the tensor that has them.
    """

    weight: Weight
    elements: int
    cast: bool
    difference: Difference | None
    not_finite: dict[str, int]
    problem: str | None = None

    @property
    def equal(self) -> bool:
        """Whether each element is what it should be."""
        return self.difference is None and self.problem is None


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One of the places where a checkpoint stores a weight: kv heads and norms can have several."""

    checkpoint: Checkpoint
    weight: Weight
    copy: int

    @property
    def parts(self) -> Parts:
        return self.checkpoint.parts[self.weight]

    @property
    def dtype(self) -> torch.dtype:
        return torch_type(value_type(self.parts.pieces[0]))

    @property
    def name(self) -> str:
        return f"{self.checkpoint.path.name}/{self.checkpoint.format.name_of(self.weight)}"


def check_tensors(a: Checkpoint, b: Checkpoint | None) -> LevelResult:
    """Whether B's weights are A's; with A alone, whether its copies agree.

    Values that are NaN or infinite are warnings, which name the tensor.
    """
    results = list(compare_tensors(a, b))
    findings = tuple(_finding(result) for result in results if not result.equal)
    warnings = tuple(
        f"{name}: {counted(count, 'value')} NaN or infinite"
        for result in results
        for name, count in result.not_finite.items()
    )
    # NaN may be meant, in rows that no token uses: whether the model still computes, the logits tell.
    return judged(NAME, _figures(results, alone=b is None), findings, warnings)


def _figures(results: list[TensorResult], *, alone: bool) -> str:
    equal = sum(result.equal for result in results)
    elements = sum(result.elements for result in results)
    if alone:
        return f"{len(results)} tensors, {elements:,} values read"
    cast = sum(result.cast for result in results)
    rounded = f", {cast} of them after rounding to the other type" if cast else ""
    return f"{equal} of {len(results)} tensors bit for bit equal{rounded}; {elements:,} values compared"


def _finding(result: TensorResult) -> str:
    if result.difference is None:
        return f"{result.weight}: {result.problem}"
    found = result.difference
    return (
        f"{result.weight}: {found.count:,} of {result.elements:,} values differ, by up to {found.largest:.3g}, "
        f"first in {found.place}"
    )


def compare_tensors(a: Checkpoint, b: Checkpoint | None) -> Iterator[TensorResult]:
    """Each weight compared, one after the other, in the order of the forward pass.

    The output head is among them unless both sides use the embedding; where one does, the other's head is
    held against that embedding.
    Cost: every weight read once; a few blocks of rows in memory.
    """
    for weight in _needed([a] if b is None else [a, b]):
        yield compare_tensor(a, b, weight)


def _needed(sides: list[Checkpoint]) -> list[Weight]:
    """What any side has, so that nothing is left over on the other."""
    found = dict.fromkeys(weight for side in sides for weight in weights(side.config))
    head = Weight(Role.HEAD)
    return list(found | dict.fromkeys([head] if any(head in side.parts for side in sides) else []))


def compare_tensor(a: Checkpoint, b: Checkpoint | None, weight: Weight) -> TensorResult:
    """One weight: all of A's copies and all of B's against A's first."""
    of_a, of_b = _views(a, weight), _views(b, weight) if b else ()
    shape = a.config.shape(weight.role)
    problem = _incomparable(a, b, weight)
    difference, not_finite = (None, {}) if problem else _compare(of_a[0], [*of_a[1:], *of_b], shape)
    return TensorResult(
        weight=weight,
        elements=prod(shape),
        cast=not problem and any(view.dtype is not of_a[0].dtype for view in of_b),
        difference=difference,
        not_finite=not_finite,
        problem=problem,
    )


def canonical_blocks(checkpoint: Checkpoint, weight: Weight) -> Iterator[Tensor]:
    """The weight's values in canonical rows, from the first to the last; of copies, the first.

    Memory: a block of rows.
    """
    view = _views(checkpoint, weight)[0]
    for rows in _row_blocks(view, checkpoint.config.shape(weight.role)):
        yield _canonical(view, rows)


def canonical_rows(checkpoint: Checkpoint, weight: Weight, rows: Tensor, copy: int = 0) -> Tensor:
    """The weight's values in these canonical rows, in their order; of copies, the one asked for.

    rows: numbers, sorted or not. Only they are read, neighbours at once.
    """
    view = _views(checkpoint, weight)[copy]
    places, order = torch.unique(stored_rows(checkpoint, weight.role, rows, view.copy), return_inverse=True)
    starts = [0, *(places.diff() > 1).nonzero().flatten().add(1).tolist(), len(places)]
    runs = [places[first:last] for first, last in pairwise(starts)]
    return torch.cat([_stored(view, int(run[0]), int(run[-1]) + 1) for run in runs])[order]


def copies(checkpoint: Checkpoint, weight: Weight) -> int:
    """How often the checkpoint stores the weight; 0 where it does not."""
    return len(_views(checkpoint, weight))


def _incomparable(a: Checkpoint, b: Checkpoint | None, weight: Weight) -> str | None:
    sides = [a] if b is None else [a, b]
    missing = [str(side.path) for side in sides if not _views(side, weight)]
    shapes = [side.config.shape(weight.role) for side in sides]
    if missing:
        return f"not in {missing[0]}"
    return f"{shapes[0]} against {shapes[1]}" if len(set(shapes)) > 1 else None


def _views(checkpoint: Checkpoint, weight: Weight) -> tuple[_View, ...]:
    stored = Weight(Role.TOKENS) if weight.role is Role.HEAD and weight not in checkpoint.parts else weight
    if stored not in checkpoint.parts:
        return ()
    parts = checkpoint.parts[stored]
    copies = checkpoint.kv_copies if weight.role in (Role.KEY, Role.VALUE) else 1
    if parts.axis is None:
        copies = len(parts.pieces)
    return tuple(_View(checkpoint=checkpoint, weight=stored, copy=copy) for copy in range(copies))


def _compare(reference: _View, others: list[_View], shape: tuple[int, ...]) -> tuple[Difference | None, dict[str, int]]:
    """All differences taken together, and the values that are no numbers."""
    difference: Difference | None = None
    not_finite: dict[str, int] = {}
    for rows in _row_blocks(reference, shape):
        wanted = _canonical(reference, rows)
        _count_not_finite(not_finite, reference, wanted)
        for view in others:
            found = _canonical(view, rows)
            _count_not_finite(not_finite, view, found)
            difference = _added(difference, _block_difference(view, rows, wanted, found))
    return difference, not_finite


def _row_blocks(view: _View, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Canonical row numbers, in blocks of whole heads."""
    unit = view.checkpoint.config.head_dim if view.weight.role in _HEAD_ROLES else 1
    rows = max(BLOCK_BYTES // (prod(shape[1:]) * view.dtype.itemsize * unit), 1) * unit
    for start in range(0, shape[0], rows):
        yield torch.arange(start, min(start + rows, shape[0]))


def stored_rows(checkpoint: Checkpoint, role: Role, rows: Tensor, copy: int = 0) -> Tensor:
    """Where the checkpoint stores the weight's canonical rows, as row numbers of all its parts together."""
    if role not in _HEAD_ROLES:
        return rows
    size = checkpoint.config.head_dim
    heads, inner = rows // size, rows % size
    if role in ROTARY_ROLES and checkpoint.rotary is Rotary.HALVES:
        pair, coordinate = inner // 2, inner % 2
        inner = pair + coordinate * (size // 2)
    if role is not Role.QUERY:
        heads = heads * checkpoint.kv_copies + copy
    return heads * size + inner


def _canonical(view: _View, rows: Tensor) -> Tensor:
    """The view's values in canonical rows; those it stores between them are read too and left out."""
    places = stored_rows(view.checkpoint, view.weight.role, rows, view.copy)
    first, last = int(places.min()), int(places.max())
    return _stored(view, first, last + 1)[places - first]


def _stored(view: _View, start: int, stop: int) -> Tensor:
    """Rows start to stop of all parts together."""
    parts = view.parts
    if parts.axis is None:
        return read(parts.pieces[view.copy].rows(start, stop))
    if parts.axis == 1:
        return torch.cat([read(part.rows(start, stop)) for part in parts.pieces], dim=1)
    found, offset = [], 0
    for part in parts.pieces:
        first, last = max(start - offset, 0), min(stop - offset, part.shape[0])
        if first < last:
            found.append(read(part.rows(first, last)))
        offset += part.shape[0]
    return torch.cat(found)


def _count_not_finite(counts: dict[str, int], view: _View, values: Tensor) -> None:
    """Smallest and largest first: a fortieth of the time of looking at each value, and both pass a NaN on."""
    extremes = torch.stack(torch.aminmax(values))
    if not extremes.isfinite().all():
        counts[view.name] = counts.get(view.name, 0) + int((~values.isfinite()).sum())


def _block_difference(view: _View, rows: Tensor, wanted: Tensor, found: Tensor) -> Difference | None:
    """Bits are compared, so that -0.0 is not 0.0; only of a NaN that was rounded, any NaN may come."""
    bits, rounded = _BITS[found.dtype.itemsize], rounded_like(wanted, view.parts.pieces[0]).to(found.dtype)
    if torch.equal(rounded.view(bits), found.view(bits)):
        return None
    wrong = rounded.view(bits) != found.view(bits)
    if wanted.dtype is not found.dtype:
        wrong &= ~(wanted.isnan() & found.isnan())
    if not wrong.any():
        return None
    gaps = (rounded[wrong].double() - found[wrong].double()).abs().nan_to_num(nan=torch.inf)
    first = [int(place) for place in wrong.nonzero()[0]]
    first[0] = int(stored_rows(view.checkpoint, view.weight.role, rows, view.copy)[first[0]])
    return Difference(count=int(wrong.sum()), largest=float(gaps.max()), place=f"{view.name}{first}")


def _added(known: Difference | None, more: Difference | None) -> Difference | None:
    if known is None or more is None:
        return known or more
    return Difference(count=known.count + more.count, largest=max(known.largest, more.largest), place=known.place)
