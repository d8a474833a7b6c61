"""What an output tensor is made of: small expressions over slices of input files. Pure data, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from llama_convert.convert.architecture import Rotary
from llama_convert.convert.containers.slices import DType, TensorSlice

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
    """The elements rounded to another type, to nearest, ties to even."""

    source: Expression
    dtype: DType

    @property
    def shape(self) -> Shape:
        return self.source.shape


Expression: TypeAlias = Stored | Joined | RotaryOrder | EveryNthHead | Cast


def nbytes(expression: Expression) -> int:
    """Bytes of the whole tensor."""
    return expression.dtype.size(prod(expression.shape))


def slices(expression: Expression) -> tuple[TensorSlice, ...]:
    """Every slice of input that the expression reads, in reading order."""
    if isinstance(expression, Stored):
        return (expression.slice,)
    if isinstance(expression, Joined):
        return tuple(found for part in expression.parts for found in slices(part))
    return slices(expression.source)


def runs(expression: Expression) -> tuple[TensorSlice, ...] | None:
    """The slices whose bytes, one after the other, are the tensor's; None where bytes must change or move."""
    if isinstance(expression, Stored):
        return (expression.slice,) if expression.slice.strides is None else None
    if isinstance(expression, Joined) and expression.axis == 0:
        parts = [runs(part) for part in expression.parts]
        return tuple(found for part in parts for found in part or ()) if None not in parts else None
    return None


def describe(expression: Expression) -> str:
    """What is done to the source, in words for a plan or a certificate."""
    if isinstance(expression, Stored):
        return "copied" if expression.slice.strides is None else "gathered"
    if isinstance(expression, Joined):
        return "joined by " + ("rows" if expression.axis == 0 else "columns")
    done = {
        RotaryOrder: "rotary order changed",
        EveryNthHead: "repeated heads dropped",
        Cast: f"cast to {expression.dtype.label}",
    }[type(expression)]
    before = describe(expression.source)
    return done if before == "copied" else f"{before}, {done}"
