"""Mistakes in joining the pieces of a model: in another order, or on the other axis.

Where A lies in one piece, the usual numbers of shards are tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from llama_convert.convert.architecture import Role
from llama_convert.verify.hypothesis import Hypothesis, moved
from llama_convert.verify.samples import Sample

_USUAL = (2, 4, 8, 16)
_HEAD_ROLES = (Role.QUERY, Role.KEY, Role.VALUE)


def joins(sample: Sample) -> Iterator[Hypothesis]:
    """All of them; none for vectors: each shard has them whole."""
    if len(sample.shape) < 2:
        return
    rows, columns = sample.shape
    for count in _counts(sample, 0):
        if rows % count == 0 and _heads_stay_whole(sample, rows // count):
            yield from _rows_in_other_order(sample, count)
            rowwise = f"{count} pieces, cut by rows, were put side by side"
            yield moved(sample, "joined-on-the-wrong-axis", partial(_dealt, count, rows), rowwise)
    for count in _counts(sample, 1):
        if columns % count == 0:
            yield from _columns_in_other_order(sample, count)
            columnwise = f"{count} pieces, cut by columns, were put on top of each other"
            values = partial(_stacked, sample, count)
            yield Hypothesis(cause="joined-on-the-wrong-axis", detail=columnwise, values=values)


def _counts(sample: Sample, axis: int) -> tuple[int, ...]:
    """The number of pieces A really has comes first."""
    parts = sample.a.parts.get(sample.weight)
    real = len(parts.pieces) if parts is not None and parts.axis == axis else 1
    return tuple(dict.fromkeys([*([real] if real > 1 else []), *_USUAL]))


def _heads_stay_whole(sample: Sample, rows: int) -> bool:
    return sample.weight.role not in _HEAD_ROLES or rows % sample.a.config.head_dim == 0


def _rows_in_other_order(sample: Sample, count: int) -> Iterator[Hypothesis]:
    """The row in the middle of each piece tells which of A's pieces it is."""
    size = sample.shape[0] // count
    middles = torch.arange(count) * size + size // 2
    order = _nearest(sample.as_b_holds(sample.values(middles)), sample.values_of_b(middles))
    if order is not None:
        yield moved(sample, "shards-in-wrong-order", partial(_from_pieces, order, size), _order_text(order))


def _from_pieces(order: Tensor, size: int, rows: Tensor) -> Tensor:
    return order[rows // size] * size + rows % size


def _columns_in_other_order(sample: Sample, count: int) -> Iterator[Hypothesis]:
    row = sample.first[:1]
    wanted, found = (side[row].reshape(count, -1) for side in (sample.wanted, sample.of_b))
    order = _nearest(wanted, found)
    if order is not None:
        values = partial(_columns_from_pieces, sample, order)
        yield Hypothesis(cause="shards-in-wrong-order", detail=_order_text(order), values=values)


def _columns_from_pieces(sample: Sample, order: Tensor, rows: Tensor) -> Tensor:
    values = sample.values(rows)
    return values.reshape(len(rows), len(order), -1)[:, order].reshape(values.shape)


def _nearest(pieces: Tensor, found: Tensor) -> Tensor | None:
    """For each found piece the number of the one it is; None where that is no other order of them all."""
    distances = torch.cdist(found.double().nan_to_num(), pieces.double().nan_to_num())
    order = distances.argmin(1)
    numbers = torch.arange(len(order))
    return order if torch.equal(order.sort().values, numbers) and not torch.equal(order, numbers) else None


def _order_text(order: Tensor) -> str:
    return f"{' '.join(map(str, order.tolist()))} instead of 0 to {len(order) - 1}"


def _dealt(count: int, rows: int, places: Tensor) -> Tensor:
    """Pieces of whole rows set side by side: each of the long rows is one row of every piece in turn."""
    return places % count * (rows // count) + places // count


def _stacked(sample: Sample, count: int, rows: Tensor) -> Tensor:
    """Pieces of columns set on top of each other: a row is what `count` short rows make, one after the other."""
    height, width = sample.shape[0], sample.shape[1] // count
    found = []
    for row in rows.tolist():
        short = row * count + torch.arange(count)
        values = sample.values(short % height)
        found.append(torch.cat([values[i, p * width :][:width] for i, p in enumerate((short // height).tolist())]))
    return torch.stack(found)
