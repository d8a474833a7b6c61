"""What an output tensor is made of: small expressions over slices of input files. Pure data, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

from llama_convert.convert.architecture import Rotary
from llama_convert.convert.containers.slices import FLOATS, DType, Scaled, TensorSlice
from llama_convert.convert.vocabulary import NewRows

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """The tensor as a file holds it."""

    slice: TensorSlice

    @property
    def shape(self) -> Shape:
        return self.slice.shape

    @property
    def dtype(self) -> DType:
        return self.slice.dtype


@dataclass(frozen=True, slots=True)
class Decoded:
    """The values of codes and the scales they were stored with, in float32."""

    scaled: Scaled

    @property
    def shape(self) -> Shape:
        return self.scaled.shape

    @property
    def dtype(self) -> DType:
        return DType.FLOAT32


@dataclass(frozen=True, slots=True)
class Joined:
    """Parts laid side by side on an axis: 0 adds rows, 1 makes every row longer."""

    parts: tuple[Expression, ...]
    axis: int

    @property
    def shape(self) -> Shape:
        first = self.parts[0].shape
        total = sum(part.shape[self.axis] for part in self.parts)
        return (*first[: self.axis], total, *first[self.axis + 1 :])

    @property
    def dtype(self) -> DType:
        return self.parts[0].dtype


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns start to stop of every row."""

    source: Expression
    start: int
    stop: int

    @property
    def shape(self) -> Shape:
        return (self.source.shape[0], self.stop - self.start)

    @property
    def dtype(self) -> DType:
        return self.source.dtype


@dataclass(frozen=True, slots=True)
class RotaryOrder:
    """The rows of every head brought into the other rotary order; rows move, nothing is rounded.

    order: the order the rows will have. Inverse: the same with the other order.
    """

    source: Expression
    head_dim: int
    order: Rotary

    @property
    def shape(self) -> Shape:
        return self.source.shape

    @property
    def dtype(self) -> DType:
        return self.source.dtype


@dataclass(frozen=True, slots=True)
class EveryNthHead:
    """Heads 0, n, 2n, ... of a projection: what remains when each head was stored n times in a row."""

    source: Expression
    head_dim: int
    step: int

    @property
    def shape(self) -> Shape:
        rows, *rest = self.source.shape
        return (rows // self.step, *rest)

    @property
    def dtype(self) -> DType:
        return self.source.dtype


@dataclass(frozen=True, slots=True)
class Cast:
    """The elements rounded to another type, to nearest, ties to even; to a quantised type as ggml rounds."""

    source: Expression
    dtype: DType

    @property
    def shape(self) -> Shape:
        return self.source.shape


@dataclass(frozen=True, slots=True)
class Grouped:
    """A float32 matrix as int8, with a float32 scale for each `group` elements of a row, as llama2.c quantises.

    Codes and scales are two tensors, and each is an expression. scales: this is the scales, else the codes.
    """

    source: Expression
    group: int
    scales: bool

    @property
    def shape(self) -> Shape:
        rows, columns = self.source.shape
        return (rows, columns // self.group if self.scales else columns)

    @property
    def dtype(self) -> DType:
        return DType.FLOAT32 if self.scales else DType.INT8


@dataclass(frozen=True, slots=True)
class Made:
    """Rows that no file holds, made from those of a whole matrix: rows `first` to `first + count` of all such.

    In the source's type, rounded once, to nearest, ties to even; in float32 where that type is quantised. Which
    row is which matters to random ones alone.
    """

    source: Expression
    new: NewRows
    count: int
    first: int = 0

    @property
    def shape(self) -> Shape:
        return (self.count, *self.source.shape[1:])

    @property
    def dtype(self) -> DType:
        return self.source.dtype if self.source.dtype in FLOATS else DType.FLOAT32


Expression: TypeAlias = Stored | Decoded | Joined | Columns | RotaryOrder | EveryNthHead | Cast | Grouped | Made
# What `runs` gives: bytes of a file to be copied, or a few rows to be made.
Run: TypeAlias = TensorSlice | Made | Columns


def stored(piece: TensorSlice | Scaled) -> Expression:
    """One piece of a weight as its file holds it."""
    return Decoded(piece) if isinstance(piece, Scaled) else Stored(piece)


def cast(expression: Expression, dtype: DType) -> Expression:
    """The expression in this type; itself where it is of that type."""
    return expression if expression.dtype is dtype else Cast(expression, dtype)


def resized(expression: Expression, count: int, new: NewRows) -> Expression:
    """A matrix with so many rows: its own first ones, which stay what they are, and new ones behind the last."""
    old = expression.shape[0]
    if count <= old:
        return rows(expression, 0, count)
    made = Made(expression, new, count - old)
    return Joined((cast(expression, made.dtype), made), 0)


def rows(expression: Expression, start: int, stop: int) -> Expression:
    """Rows start to stop of the tensor; whole heads where heads are reordered or dropped.

    The cut is made as near to the files as it can be, so that rows which lie in order stay plain copies.
    """
    if (start, stop) == (0, expression.shape[0]):
        return expression
    if isinstance(expression, (Stored, Decoded)):
        return stored((expression.slice if isinstance(expression, Stored) else expression.scaled).rows(start, stop))
    if isinstance(expression, EveryNthHead):
        first = start * expression.step
        if stop - start == expression.head_dim:  # its copies lie behind it: nothing is left to be dropped
            return rows(expression.source, first, first + expression.head_dim)
        return replace(expression, source=rows(expression.source, first, stop * expression.step))
    if isinstance(expression, Made):
        return replace(expression, first=expression.first + start, count=stop - start)
    if not isinstance(expression, Joined):
        return replace(expression, source=rows(expression.source, start, stop))
    if expression.axis == 1:
        return Joined(tuple(rows(part, start, stop) for part in expression.parts), 1)
    return _joined(_cuts(expression, start, stop, rows), 0)


def columns(expression: Expression, start: int, stop: int) -> Expression:
    """Columns start to stop of every row of a matrix."""
    if (start, stop) == (0, expression.shape[1]):
        return expression
    if isinstance(expression, Joined):
        if expression.axis == 1:
            return _joined(_cuts(expression, start, stop, columns), 1)
        return Joined(tuple(columns(part, start, stop) for part in expression.parts), 0)
    if isinstance(expression, Cast) and expression.dtype.block == expression.source.dtype.block == 1:
        return replace(expression, source=columns(expression.source, start, stop))
    if isinstance(expression, Stored) and expression.dtype.block == 1:
        return Stored(expression.slice.columns(start, stop))
    return Columns(expression, start, stop)


def _cuts(
    expression: Joined, start: int, stop: int, cut: Callable[[Expression, int, int], Expression]
) -> list[Expression]:
    found, offset = [], 0
    for part in expression.parts:
        size = part.shape[expression.axis]
        first, last = max(start - offset, 0), min(stop - offset, size)
        if first < last:
            found.append(cut(part, first, last))
        offset += size
    return found


def _joined(parts: list[Expression], axis: int) -> Expression:
    return parts[0] if len(parts) == 1 else Joined(tuple(parts), axis)


def nbytes(expression: Expression) -> int:
    """Bytes of the whole tensor."""
    return expression.dtype.size(prod(expression.shape))


def slices(expression: Expression) -> tuple[TensorSlice, ...]:
    """Every slice of input that the expression reads, in reading order."""
    if isinstance(expression, Stored):
        return (expression.slice,)
    if isinstance(expression, Decoded):
        return expression.scaled.slices
    if isinstance(expression, Joined):
        return tuple(found for part in expression.parts for found in slices(part))
    return slices(expression.source)


def runs(expression: Expression) -> tuple[Run, ...] | None:
    """What the tensor is, one after the other: bytes as they are, rows to be made; None where bytes change or move."""
    if isinstance(expression, Stored):
        return (expression.slice,) if expression.slice.strides is None else None
    if isinstance(expression, Made) or (isinstance(expression, Columns) and isinstance(expression.source, Made)):
        return (expression,)
    if isinstance(expression, Joined) and expression.axis == 0:
        parts = [runs(part) for part in expression.parts]
        return tuple(found for part in parts for found in part or ()) if None not in parts else None
    return None


def describe(expression: Expression) -> str:
    """What is done to the source, in words for a plan or a certificate."""
    if isinstance(expression, Stored):
        return "copied" if expression.slice.strides is None else "gathered"
    if isinstance(expression, Decoded):
        return "dequantised"
    if isinstance(expression, Made):
        rows_made = "row" if expression.count == 1 else f"{expression.count:,} rows"
        return f"{rows_made} added ({expression.new.init.value})"
    if isinstance(expression, Joined):
        if isinstance(expression.parts[-1], Made):
            old, made = describe(_joined(list(expression.parts[:-1]), 0)), describe(expression.parts[-1])
            return made if old == "copied" else f"{old}, {made}"
        found = dict.fromkeys(describe(part) for part in expression.parts)
        joined = "joined by " + ("rows" if expression.axis == 0 else "columns")
        return ", ".join([*(treatment for treatment in found if treatment != "copied"), joined])
    done = _done(expression)
    before = describe(expression.source)
    return done if before == "copied" else f"{before}, {done}"


def _done(expression: Columns | RotaryOrder | EveryNthHead | Cast | Grouped) -> str:
    if isinstance(expression, Cast):
        return ("quantised to " if expression.dtype.block > 1 else "cast to ") + expression.dtype.label
    if isinstance(expression, Grouped):
        return "scales of int8 groups" if expression.scales else "quantised to int8 groups"
    return {
        Columns: "columns taken",
        RotaryOrder: "rotary order changed",
        EveryNthHead: "repeated heads dropped",
    }[type(expression)]
