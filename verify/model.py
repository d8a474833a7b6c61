"""A checkpoint's weights in memory, ready to be run again and again: what decoding needs.

Nothing is joined or reordered: pieces stay pieces, and q and k stay in the order of their format. On a CPU a
weight whose bytes are already what is computed with is a view of its file: it costs no memory that another
program could not have, and loading it costs nothing.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from llama_convert.convert.architecture import LlamaConfig, Role, Rotary, Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import FLOATS, DType, TensorSlice
from llama_convert.convert.quantisation import ENCODERS, encode
from llama_convert.verify.ahead import give_memory_back
from llama_convert.verify.forward import stored_head
from llama_convert.verify.matrices import GROUP, KERNEL_ROWS, Dense, Filed, Matrix, Sharded, Table, from_blocks
from llama_convert.verify.reading import BLOCK_BYTES, Piece, read, read_bytes, row_blocks, torch_type

# The number of rows must be a multiple of this for torch's kernel for four bits.
_EVEN_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One block. The norms are vectors, (hidden_size,)."""

    attention_norm: Tensor
    query: Matrix
    key: Matrix
    value: Matrix
    attention_out: Matrix
    ffn_norm: Tensor
    gate: Matrix
    up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A Llama in memory.

    kv_heads: as they are stored; more than the config's where files repeat them. rotary: how q and k lie.
    """

    config: LlamaConfig
    rotary: Rotary
    kv_heads: int
    dtype: torch.dtype
    device: str
    tokens: Table
    layers: tuple[Layer, ...]
    final_norm: Tensor
    head: Matrix

    @property
    def nbytes(self) -> int:
        """Memory that its weights take, mapped files included."""
        return sum(tensor.nbytes for tensor in tensors(self))


def tensors(model: Model) -> list[Tensor]:
    """Every tensor of the model, each once."""
    table = (model.tokens.weight,) if isinstance(model.tokens, Dense) else ()
    layers = (tensor for layer in model.layers for name in _FIELDS.values() for tensor in _stored(getattr(layer, name)))
    found = (*table, *layers, model.final_norm, *model.head.tensors)
    return list({id(tensor): tensor for tensor in found}.values())  # a tied head is the embedding


def _stored(held: Matrix | Tensor) -> tuple[Tensor, ...]:
    return (held,) if isinstance(held, Tensor) else held.tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """How weights are held. quantise: the type to which matrices are quantised; None for as they come."""

    dtype: torch.dtype
    device: str = "cpu"
    quantise: DType | None = None


_FIELDS = {
    Role.ATTENTION_NORM: "attention_norm",
    Role.QUERY: "query",
    Role.KEY: "key",
    Role.VALUE: "value",
    Role.ATTENTION_OUT: "attention_out",
    Role.FFN_NORM: "ffn_norm",
    Role.GATE: "gate",
    Role.UP: "up",
    Role.DOWN: "down",
}


def load_model(
    checkpoint: Checkpoint, holding: Holding, on_progress: Callable[[int], None] = lambda nbytes: None
) -> Model:
    """The checkpoint's weights, held as is wanted.

    on_progress: given the bytes of each weight's file content as it is loaded.
    """

    def matrix(weight: Weight) -> Matrix:
        parts = checkpoint.parts[weight]
        pieces = tuple(_held(piece, holding) for piece in parts.pieces)
        on_progress(sum(piece.nbytes for piece in parts.pieces))
        return pieces[0] if len(pieces) == 1 or parts.axis is None else Sharded(pieces, parts.axis)

    def vector(weight: Weight) -> Tensor:
        return read(checkpoint.parts[weight].pieces[0]).to(holding.device).to(holding.dtype)

    def layer(number: int) -> Layer:
        norms = (Role.ATTENTION_NORM, Role.FFN_NORM)
        fields = {name: (vector if role in norms else matrix)(Weight(role, number)) for role, name in _FIELDS.items()}
        return Layer(**fields)  # type: ignore[arg-type]

    give_memory_back()
    head, tokens = stored_head(checkpoint), Weight(Role.TOKENS)
    output = matrix(head)
    keys = checkpoint.parts[Weight(Role.KEY, 0)]
    rows = sum(piece.shape[0] for piece in keys.pieces) if keys.axis == 0 else keys.pieces[0].shape[0]
    return Model(
        config=checkpoint.config,
        rotary=checkpoint.rotary,
        kv_heads=rows // checkpoint.config.head_dim,
        dtype=holding.dtype,
        device=holding.device,
        tokens=output if head == tokens and isinstance(output, Dense) else _table(checkpoint, holding),
        layers=tuple(layer(number) for number in range(checkpoint.config.layers)),
        final_norm=vector(Weight(Role.FINAL_NORM)),
        head=output,
    )


def _table(checkpoint: Checkpoint, holding: Holding) -> Table:
    """The embedding: rows are read from the file where that is near, a GPU has all of them."""
    parts = checkpoint.parts[Weight(Role.TOKENS)]
    if holding.device == "cpu":
        return Filed(parts, holding.dtype)
    return Dense(torch.cat([_values(piece, holding) for piece in parts.pieces], dim=parts.axis or 0))


def held_in(piece: Piece, holding: Holding) -> DType | None:
    """The type in whose codes a matrix is held: where it is, or shall be, in that, and torch has the kernel for it."""
    own = piece.dtype if isinstance(piece, TensorSlice) and piece.strides is None else None
    wanted = holding.quantise or (own if own in ENCODERS else None)
    able = holding.device == "cpu" and holding.dtype is torch.bfloat16
    fits = len(piece.shape) > 1 and piece.shape[0] % _EVEN_ROWS == 0 and piece.shape[1] % GROUP == 0
    return wanted if able and fits else None


def is_view(piece: Piece, holding: Holding) -> bool:
    """Whether a matrix held as values is a view of its file: where its bytes are those values already."""
    if not isinstance(piece, TensorSlice) or piece.strides is not None or piece.dtype not in FLOATS:
        return False
    placed = holding.device == "cpu" and len(piece.shape) > 1 and piece.offset % piece.dtype.nbytes == 0
    return placed and torch_type(piece.dtype) is holding.dtype


def _held(piece: Piece, holding: Holding) -> Matrix:
    wanted = held_in(piece, holding)
    if wanted is None:
        return Dense(_values(piece, holding))
    return from_blocks((_encoded(rows, wanted) for rows in _some_rows(piece)), wanted, piece.shape[0])


def _some_rows(piece: Piece) -> Iterator[Piece]:
    """The piece in blocks of rows, as many as the kernel packs together or a multiple of that."""
    step = max(BLOCK_BYTES // (piece.shape[1] * 4) // KERNEL_ROWS, 1) * KERNEL_ROWS
    for start in range(0, piece.shape[0], step):
        yield piece.rows(start, min(start + step, piece.shape[0]))


def _encoded(piece: Piece, dtype: DType) -> Tensor:
    """Some rows as the file of a quantised model has them, (rows, bytes of a row)."""
    if isinstance(piece, TensorSlice) and piece.dtype is dtype:
        return read_bytes(piece).view(piece.shape[0], -1)
    return torch.from_numpy(encode(read(piece).float().numpy(), dtype))


def _values(piece: Piece, holding: Holding) -> Tensor:
    """The piece's values where they are computed with."""
    if is_view(piece, holding):
        assert isinstance(piece, TensorSlice)
        return _mapped(piece)
    found = torch.empty(piece.shape, dtype=holding.dtype, device=holding.device)
    start = 0
    for rows in row_blocks(piece):
        found[start : start + rows.shape[0]] = read(rows)
        start += rows.shape[0]
    return found


def _mapped(piece: TensorSlice) -> Tensor:
    values = torch.frombuffer(
        _file(piece.file), dtype=torch_type(piece.dtype), count=prod(piece.shape), offset=piece.offset
    )
    return values.view(piece.shape)


@functools.cache
def _file(path: Path) -> mmap.mmap:
    """The file, mapped while the program runs; copy on write: torch takes nothing that it may not write."""
    with path.open("rb") as file:
        found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    # What is not in memory yet comes in large pages, which are read a twentieth faster. Not every system has them.
    with suppress(AttributeError, OSError):
        found.madvise(mmap.MADV_HUGEPAGE)
    return found
