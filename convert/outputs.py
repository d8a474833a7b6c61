"""What is wanted and what a format makes of it: tensors in their places, files to be. Pure data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeVar

from llama_convert.convert.architecture import Weight
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.expressions import Expression, nbytes

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user wants of the output; everything else the files decide.

    dtype: None keeps the source's. instruct: the weights are of a chat model: end tokens and chat template
    follow. special_tokens: names in the order of their ids, instead of the version's own.
    The rest only some formats have. shard_size: bytes a weight file may have; a larger tensor gets its own.
    shards: model-parallel files. quantize: the type of all matrices; output_type, embedding_type: of the
    head and of the embedding, instead. format_version: of the file format, where it has several.
    """

    dtype: DType | None = None
    instruct: bool = False
    special_tokens: tuple[str, ...] | None = None
    shard_size: int | None = None
    shards: int | None = None
    quantize: DType | None = None
    output_type: DType | None = None
    embedding_type: DType | None = None
    format_version: int | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to write: the weights in it, its name in the target, and what it is made of."""

    weights: tuple[Weight, ...]
    name: str
    expression: Expression


@dataclass(frozen=True, slots=True)
class Step:
    """One output tensor in its place: `offset` is the byte at which it starts in its file."""

    tensor: Tensor
    offset: int

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.tensor.name

    @property
    def expression(self) -> Expression:
        """What the tensor is made of."""
        return self.tensor.expression

    @property
    def nbytes(self) -> int:
        """Bytes of the output tensor."""
        return nbytes(self.expression)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """One file of weights to be, `size` bytes long.

    fixed: what is known beforehand, as (offset, bytes): the header, and what lies between tensors; bytes that
    nothing fills are zero. ending: what is known only once every tensor has been written, from the CRC-32 of
    each step, in their order; None where the format has no checksums.
    """

    name: str
    fixed: tuple[tuple[int, bytes], ...]
    steps: tuple[Step, ...]
    size: int
    ending: Callable[[Sequence[int]], Sequence[tuple[int, bytes]]] | None = None


@dataclass(frozen=True, slots=True)
class SideFile:
    """A small file beside the weights: config, tokenizer. `write` makes it at the path it is given.

    late: made when the weights are there, for it is about them.
    """

    name: str
    write: Callable[[Path], None]
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a format makes of a checkpoint. notes: what the user should know of it, one sentence each."""

    files: tuple[WeightFile, ...]
    side_files: tuple[SideFile, ...]
    notes: tuple[str, ...] = ()


def main_type(stored: Iterable[tuple[Kind, Sequence[int]]]) -> Kind:
    """The type of most matrix elements, of pairs of a type and a shape; at least one matrix must be among them."""
    sizes: dict[Kind, int] = {}
    for kind, shape in stored:
        if len(shape) > 1:
            sizes[kind] = sizes.get(kind, 0) + prod(shape)
    return max(sizes, key=lambda kind: sizes[kind])
