"""What a weight's own values tell where no mistake gives its rows: damage, a factor, another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_convert.convert.architecture import ROTARY_ROLES
from llama_convert.convert.errors import counted
from llama_convert.verify.reorders import to_halves
from llama_convert.verify.samples import Sample, differing_elements, first_row, place_in

_A_HANDFUL = 16
# Correlation of two models' weights: trained apart, below 0.05; one tuned from the other, above 0.9.
_UNRELATED = 0.3
# What rounding to bfloat16 leaves of a weight that was multiplied by something.
_ROUNDING = 2.0**-8
# Relative error of the same values in any quantised type but those of two bits; of others 1.4.
_SAME_VALUES = 0.25


@dataclass(frozen=True, slots=True)
class Mark:
    """A cause, and what was found."""

    cause: str
    detail: str = ""


def mark(sample: Sample) -> Mark:
    """The first of them that fits; at the least, where values differ."""
    for look in _LOOKS:
        found = look(sample)
        if found is not None:
            return found
    share = int(sample.different.sum())
    return Mark(
        "values-differ", f"{share} of {counted(len(sample.rows), 'sampled row')}, the first row is {first_row(sample)}"
    )


def _few(sample: Sample) -> Mark | None:
    count = sample.difference.count
    element = _element(sample)
    if not sample.exact or count > min(_A_HANDFUL, sample.of_b.numel() // 2) or element is None:
        return None
    place, before, after, bits = element
    values = f"{place} is {after:.6g} and should be {before:.6g}"
    if count == 1 and len(bits) == 1:
        return Mark("flipped-bit", f"{values} (bit {bits[0]} of {sample.of_b.dtype.itemsize * 8})")
    return Mark("few-values-changed", f"{counted(count, 'value')}, the first: {values}")


def _element(sample: Sample) -> tuple[str, float, float, list[int]] | None:
    """The first sampled element that differs: place, A's value, B's, the bits in which they differ."""
    for row, column, before, after in differing_elements(sample):
        index = place_in(sample.difference)
        return f"element {index or [int(sample.rows[row]), column]}", before, after, _bits(sample, row, column)
    return None


def _bits(sample: Sample, row: int, column: int) -> list[int]:
    wanted, found = (
        side.reshape(len(sample.rows), -1)[row, column].reshape(1).view(torch.uint8).tolist()
        for side in (sample.wanted, sample.of_b)
    )
    # The lowest byte first, as every machine that torch runs on has them.
    number = int.from_bytes(bytes(wanted), "little") ^ int.from_bytes(bytes(found), "little")
    return [bit for bit in range(number.bit_length()) if number >> bit & 1]


def _zeroed(sample: Sample) -> Mark | None:
    found = sample.of_b[sample.different]
    if found.any() or not sample.wanted[sample.different].any():
        return None
    counts = f"{_rows_of(sample)}, " if sample.exact else ""
    return Mark("rows-zeroed", f"{counts}the first is {first_row(sample)}")


def _rows_of(sample: Sample) -> str:
    width = sample.of_b[0].numel()
    return counted(-(-sample.difference.count // width), "row" if width > 1 else "value")


def _transposed(sample: Sample) -> Mark | None:
    """Of a square matrix, the sampled rows at the sampled columns tell, before or after the rows were reordered."""
    if len(sample.shape) < 2 or sample.shape[0] != sample.shape[1]:
        return None
    columns = [sample.rows]
    if sample.weight.role in ROTARY_ROLES:
        columns.append(to_halves(sample.a.config.head_dim, sample.rows))
    turned = any(_near(sample.of_a[:, chosen].T, sample.of_b[:, chosen]) for chosen in columns)
    return Mark("transposed") if turned else None


def _near(wanted: Tensor, found: Tensor) -> bool:
    return float((wanted.double() - found.double()).norm()) < _SAME_VALUES * float(found.double().norm())


def _scaled(sample: Sample) -> Mark | None:
    before, after = sample.wanted.double().flatten(), sample.of_b.double().flatten()
    factor = float(before @ after / (before @ before))
    error = float((before * factor - after).norm() / after.norm())
    return Mark("scaled", f"{factor:.6g}") if error < _ROUNDING and abs(factor - 1) > 4 * _ROUNDING else None


def _foreign(sample: Sample) -> Mark | None:
    """Nearly every sampled row differs: a tensor of another model, or of this one after more training."""
    if float(sample.different.double().mean()) < 0.9:
        return None
    pair = torch.stack([side.double().flatten().nan_to_num() for side in (sample.wanted, sample.of_b)])
    correlation = float(torch.corrcoef(pair)[0, 1])
    if not correlation >= _UNRELATED:
        return Mark("tensor-of-another-model", "the values of another model, unrelated to {a}'s,")
    return Mark("tensor-of-another-model", "values near {a}'s but not the same, as after more training,")


_LOOKS: tuple[Callable[[Sample], Mark | None], ...] = (_few, _zeroed, _transposed, _scaled, _foreign)
