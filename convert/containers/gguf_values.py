"""What a GGUF file says besides weights: typed values, as bytes and back, and the numbers of ggml's types.

Sources: ggml docs/gguf.md, ggml/include/ggml.h, ggml/include/gguf.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.containers.slices import DType

# Bytes between the starts of tensors are a multiple of this, unless the file says otherwise.
ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MOST_AXES = 4

# ggml's number of every type that a DType stands for.
DTYPES = {
    0: DType.FLOAT32,
    1: DType.FLOAT16,
    2: DType.Q4_0,
    3: DType.Q4_1,
    6: DType.Q5_0,
    7: DType.Q5_1,
    8: DType.Q8_0,
    10: DType.Q2_K,
    11: DType.Q3_K,
    12: DType.Q4_K,
    13: DType.Q5_K,
    14: DType.Q6_K,
    16: DType.IQ2_XXS,
    17: DType.IQ2_XS,
    18: DType.IQ3_XXS,
    19: DType.IQ1_S,
    20: DType.IQ4_NL,
    21: DType.IQ3_S,
    22: DType.IQ2_S,
    23: DType.IQ4_XS,
    24: DType.INT8,
    25: DType.INT16,
    26: DType.INT32,
    27: DType.INT64,
    28: DType.FLOAT64,
    29: DType.IQ1_M,
    30: DType.BFLOAT16,
    34: DType.TQ1_0,
    35: DType.TQ2_0,
    39: DType.MXFP4,
    40: DType.NVFP4,
}
# The others that ggml has or had, so that a refusal can say what was found.
OTHER_TYPES = {
    4: "q4_2, removed from ggml",
    5: "q4_3, removed from ggml",
    9: "q8_1, which ggml uses in memory only",
    15: "q8_k, which ggml uses in memory only",
    31: "q4_0_4_4, removed from ggml",
    32: "q4_0_4_8, removed from ggml",
    33: "q4_0_8_8, removed from ggml",
    36: "iq4_nl_4_4, removed from ggml",
    37: "iq4_nl_4_8, removed from ggml",
    38: "iq4_nl_8_8, removed from ggml",
    41: "q1_0, not supported",
}


class Kind(Enum):
    """The type of a value. number: in the file. code: in struct and numpy, "" for texts and arrays."""

    UINT8 = (0, "B")
    INT8 = (1, "b")
    UINT16 = (2, "H")
    INT16 = (3, "h")
    UINT32 = (4, "I")
    INT32 = (5, "i")
    FLOAT32 = (6, "f")
    BOOL = (7, "?")
    STRING = (8, "")
    ARRAY = (9, "")
    UINT64 = (10, "Q")
    INT64 = (11, "q")
    FLOAT64 = (12, "d")

    def __init__(self, number: int, code: str) -> None:
        self.number = number
        self.code = code

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of an array of these; for kinds with a code only."""
        return np.dtype(f"<{self.code}")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number, a truth value or a text. A text that is no UTF-8 stays bytes."""

    kind: Kind
    content: bool | int | float | str | bytes

    def encoded(self) -> bytes:
        """Its bytes in the file, without the type before them. struct.error: it does not fit its kind."""
        if self.kind is Kind.STRING:
            return encoded_text(self.content)
        return struct.pack(f"<{self.kind.code}", self.content)


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """Many values of one kind; equal to another where the bytes in the file are.

    content: numbers and truth values in any sequence; one that was read is a numpy array of exactly the
    kind's type, read-only. A tuple of texts (bytes where they are no UTF-8), or of arrays.
    """

    kind: Kind
    content: NDArray[Any] | Sequence[Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and self.encoded() == other.encoded()

    def __hash__(self) -> int:
        return hash(self.encoded())

    def encoded(self) -> bytes:
        """Its bytes in the file: type and count of the elements, then these. struct.error: one does not fit."""
        return struct.pack("<IQ", self.kind.number, len(self.content)) + b"".join(self._elements())

    def _elements(self) -> Iterator[bytes]:
        if self.kind is Kind.ARRAY:
            yield from (array.encoded() for array in self.content)
        elif self.kind is Kind.STRING:
            yield from map(encoded_text, self.content)
        elif isinstance(self.content, np.ndarray) and self.content.dtype == self.kind.dtype:
            yield self.content.tobytes()
        else:
            # Not by way of numpy, which cuts what does not fit.
            yield struct.pack(f"<{len(self.content)}{self.kind.code}", *self.content)


Value: TypeAlias = Scalar | Array


def encoded(value: Value) -> bytes:
    """The value's bytes in the file, its type before them."""
    kind = Kind.ARRAY if isinstance(value, Array) else value.kind
    return struct.pack("<I", kind.number) + value.encoded()


def encoded_text(text: Any) -> bytes:
    """A text's bytes in the file, their number before them. TypeError: it is neither text nor bytes."""
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"{text!r:.80} is no text")
    content = text.encode() if isinstance(text, str) else text
    return len(content).to_bytes(8, "little") + content


def shape_faults(dtype: DType, shape: Sequence[int]) -> Iterator[str]:
    """One sentence for everything that keeps ggml from holding a tensor of this type and shape."""
    if len(shape) > MOST_AXES:
        yield f"more than {MOST_AXES} axes"
    if 0 in shape:
        yield f"{list(shape)} holds nothing"
    row = shape[-1] if shape else 1
    if row % dtype.block:
        yield f"rows of {row:,} elements, but {dtype.label} stores them in blocks of {dtype.block}"


def padded(position: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple of the alignment."""
    return -(-position // alignment) * alignment
