"""What a weight's own values tell where no mistake gives its rows: damage, a factor, another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_convert.convert.architecture import ROTARY_ROLES
from llama_convert.convert.errors import counted
from llama_convert.verify.reorders import to_halves
from llama_convert.verify.samples import Sample, first_element, first_row, place_in
from llama_convert.verify.views import canonical_blocks

_A_HANDFUL = 16
# Correlation of values: of a norm of 192 random elements and another it is within 0.2, of matrices much nearer to 0.
_UNRELATED = 0.3
# What rounding to bfloat16 leaves of a weight that was multiplied by something.
_ROUNDING = 2.0**-8
# Relative error of the same values in types of 4 bits: 0.08; of other values 1.4.
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
    if not sample.exact or count > min(_A_HANDFUL, sample.of_b.numel() // 2):
        return None
    row, column = first_element(sample)
    before, after = (side.reshape(len(sample.rows), -1)[row, column] for side in (sample.wanted, sample.of_b))
    place = f"element {place_in(sample.difference) or [int(sample.rows[row]), column]}"
    values, bits = f"{place} is {after:.6g} and should be {before:.6g}", _bits(before, after)
    if count == 1 and len(bits) == 1:
        return Mark("flipped-bit", f"{values} (bit {bits[0]} of {after.dtype.itemsize * 8})")
    return Mark("few-values-changed", f"{counted(count, 'value')}, the first: {values}")


def _bits(before: Tensor, after: Tensor) -> list[int]:
    """Numbers of those in which two values differ."""
    one, other = (bytes(value.reshape(1).view(torch.uint8).tolist()) for value in (before, after))
    # The lowest byte first, as every machine that torch runs on has them.
    number = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
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


def _reordered(sample: Sample) -> Mark | None:
    """Whether the rows that B has are somewhere in A's: the one look that reads the whole weight."""
    if not sample.exact or len(sample.shape) < 2:
        return None
    wanted = {_content(row) for row in sample.of_b[sample.different]}
    for block in canonical_blocks(sample.a, sample.weight):
        wanted -= {_content(row) for row in sample.as_b_holds(block)}
        if not wanted:
            return Mark("rows-reordered")
    return None


def _content(row: Tensor) -> bytes:
    return row.contiguous().view(torch.uint8).numpy().tobytes()


def _foreign(sample: Sample) -> Mark | None:
    """Nearly every sampled row differs: a tensor of another model, or of this one after more training."""
    if float(sample.different.double().mean()) < 0.9:
        return None
    pair = torch.stack([side.double().flatten().nan_to_num() for side in (sample.wanted, sample.of_b)])
    correlation = float(torch.corrcoef(pair)[0, 1])
    if not correlation >= _UNRELATED:
        return Mark("tensor-of-another-model", "the values of another model, unrelated to {a}'s,")
    return Mark("tensor-of-another-model", "values near {a}'s but not the same, as after more training,")


_LOOKS: tuple[Callable[[Sample], Mark | None], ...] = (_few, _zeroed, _transposed, _scaled, _reordered, _foreign)
