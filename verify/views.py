"""Weights read in canonical rows, from wherever a checkpoint stores them.

A weight has canonical rows: heads in their order without copies, and in each head the two coordinates of a
rotated pair next to each other. `stored_rows` says where a checkpoint stores them; that is a bijection for each
copy, so that equal rows mean that nothing was lost, added or exchanged. It is arithmetic of its own: nothing of
how the converter moves rows is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from llama_convert.convert.architecture import ROTARY_ROLES, Role, Rotary, Weight
from llama_convert.convert.checkpoint import Checkpoint, Parts
from llama_convert.verify.reading import BLOCK_BYTES, read, stored_type, torch_type, value_type

_HEAD_ROLES = (Role.QUERY, Role.KEY, Role.VALUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One of the places where a checkpoint stores a weight: kv heads and norms can have several."""

    checkpoint: Checkpoint
    weight: Weight
    copy: int

    @property
    def parts(self) -> Parts:
        """All places of the weight together."""
        return self.checkpoint.parts[self.weight]

    @property
    def dtype(self) -> torch.dtype:
        """Of the values that are read."""
        return torch_type(value_type(self.parts.pieces[0]))

    @property
    def name(self) -> str:
        """The checkpoint's name, and its own of the weight."""
        return f"{self.checkpoint.path.name}/{self.checkpoint.format.name_of(self.weight)}"

    @property
    def types(self) -> set[str]:
        """The types in which the pieces are stored, by name."""
        return {stored_type(piece) for piece in self.parts.pieces}

    def place(self, rows: Tensor, index: list[int]) -> str:
        """Where the element, or row, of these canonical rows is stored."""
        row = int(stored_rows(self.checkpoint, self.weight.role, rows, self.copy)[index[0]])
        return f"{self.name}{[row, *index[1:]]}"


def canonical_blocks(checkpoint: Checkpoint, weight: Weight) -> Iterator[Tensor]:
    """The weight's values in canonical rows, from the first to the last; of copies, the first.

    Memory: a block of rows.
    """
    view = views(checkpoint, weight)[0]
    for rows in row_numbers(view, checkpoint.config.shape(weight.role)):
        yield canonical(view, rows)


def canonical_rows(checkpoint: Checkpoint, weight: Weight, rows: Tensor, copy: int = 0) -> Tensor:
    """The weight's values in these canonical rows, in their order; of copies, the one asked for.

    rows: numbers, sorted or not. Only they are read, neighbours at once.
    """
    view = views(checkpoint, weight)[copy]
    places, order = torch.unique(stored_rows(checkpoint, weight.role, rows, view.copy), return_inverse=True)
    starts = [0, *(places.diff() > 1).nonzero().flatten().add(1).tolist(), len(places)]
    runs = [places[first:last] for first, last in pairwise(starts)]
    return torch.cat([_stored(view, int(run[0]), int(run[-1]) + 1) for run in runs])[order]


def copies(checkpoint: Checkpoint, weight: Weight) -> int:
    """How often the checkpoint stores the weight; 0 where it does not."""
    return len(views(checkpoint, weight))


def views(checkpoint: Checkpoint, weight: Weight) -> tuple[View, ...]:
    """Every place where the checkpoint stores the weight; a tied head is the embedding. Empty: nowhere."""
    stored = Weight(Role.TOKENS) if weight.role is Role.HEAD and weight not in checkpoint.parts else weight
    if stored not in checkpoint.parts:
        return ()
    parts = checkpoint.parts[stored]
    copies = checkpoint.kv_copies if weight.role in (Role.KEY, Role.VALUE) else 1
    if parts.axis is None:
        copies = len(parts.pieces)
    return tuple(View(checkpoint=checkpoint, weight=stored, copy=copy) for copy in range(copies))


def row_numbers(view: View, shape: tuple[int, ...]) -> Iterator[Tensor]:
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


def canonical(view: View, rows: Tensor) -> Tensor:
    """The view's values in canonical rows; those it stores between them are read too and left out."""
    places = stored_rows(view.checkpoint, view.weight.role, rows, view.copy)
    first, last = int(places.min()), int(places.max())
    stored = _stored(view, first, last + 1)
    in_order = torch.equal(places, torch.arange(first, last + 1))
    return stored if in_order else stored[places - first]


def _stored(view: View, start: int, stop: int) -> Tensor:
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
    return found[0] if len(found) == 1 else torch.cat(found)
