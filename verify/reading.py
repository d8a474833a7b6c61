"""Weights read from their files into torch tensors: by offset and, where quantised, by scale; nothing is moved."""

from __future__ import annotations

from collections.abc import Iterator
from io import RawIOBase
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llama_convert.convert.containers.slices import FLOATS, Coding, DType, Scaled, TensorSlice
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.quantisation import ENCODERS, decode, decode_affine, decode_scaled, encode
from llama_convert.convert.quantisation.groups import dequantise_groups, quantise_groups

# Bytes to read at once: large enough that system calls do not count, small beside the model.
BLOCK_BYTES = 16 << 20


Piece = TensorSlice | Scaled


def value_type(piece: Piece) -> DType:
    """The type of the piece's values: its own, float32 where it is quantised."""
    return piece.dtype if isinstance(piece, TensorSlice) and piece.dtype in FLOATS else DType.FLOAT32


def torch_type(dtype: DType) -> torch.dtype:
    """The same element type in torch."""
    found = getattr(torch, dtype.label)
    assert isinstance(found, torch.dtype)
    return found


def read(piece: Piece) -> Tensor:
    """The piece's values, in its own shape, exactly; a copy, whatever the strides.

    Raises CheckpointError where the file ends before them.
    """
    if isinstance(piece, Scaled):
        return torch.from_numpy(_decoded(piece))
    content = _content(piece)
    if piece.dtype.block > 1:
        rows = content.numpy().reshape(piece.shape[0], -1)
        return torch.from_numpy(decode(rows, piece.dtype))
    return content.view(torch_type(piece.dtype)).reshape(piece.shape)


def stored_type(piece: Piece) -> str:
    """The name of the type in which the piece's values are stored, as in `expectations`."""
    if isinstance(piece, TensorSlice):
        return piece.dtype.label
    if piece.coding is Coding.AFFINE:
        return f"affine of {piece.bits} bits"
    if piece.codes.dtype is not DType.INT8:
        return piece.codes.dtype.label
    return f"int8 by {'groups' if piece.tile else 'rows' if prod(piece.scales.shape) > 1 else 'tensors'}"


def block_size(piece: Piece) -> int:
    """How many values of a row are rounded together; 1 where each is by itself."""
    if isinstance(piece, TensorSlice):
        return piece.dtype.block
    return piece.group if _by_groups(piece) else 1


def recomputable(piece: Piece) -> bool:
    """Whether what is stored follows from the values it was made of: every program rounds them alike."""
    if isinstance(piece, Scaled):
        return _by_groups(piece)
    return piece.dtype in FLOATS or piece.dtype in ENCODERS


def _by_groups(piece: Scaled) -> bool:
    """Codes as llama2.c has them, and no one else."""
    return piece.coding is Coding.SCALED and piece.codes.dtype is DType.INT8 and piece.tile is not None


def rounded_like(values: Tensor, piece: Piece) -> Tensor:
    """Values rounded to the type in which the piece is stored; as they are where that cannot be recomputed."""
    if isinstance(piece, Scaled):
        codes = quantise_groups(_rows(values), piece.group) if _by_groups(piece) else None
        return values if codes is None else torch.from_numpy(dequantise_groups(*codes))
    if piece.dtype in ENCODERS:
        return torch.from_numpy(decode(encode(_rows(values), piece.dtype), piece.dtype))
    return values.to(torch_type(piece.dtype)) if piece.dtype in FLOATS else values


def _rows(values: Tensor) -> NDArray[np.float32]:
    return values.float().reshape(len(values), -1).numpy()


def _content(tensor: TensorSlice) -> Tensor:
    return read_bytes(tensor) if tensor.strides is None else _by_strides(tensor)


def _decoded(scaled: Scaled) -> NDArray[np.float32]:
    """What quantisation means is arithmetic that both sides share; each of its formulas is tested by itself."""
    codes = _content(scaled.codes).numpy().reshape(scaled.codes.shape[0], -1)
    scales, *biases = (read(found).float().numpy() for found in scaled.slices[1:])
    if scaled.coding is Coding.AFFINE:
        return decode_affine(codes.view(np.uint32), scales, biases[0], scaled.bits, scaled.group)
    return decode_scaled(codes, scaled.codes.dtype, scales, scaled.tile)


def read_bytes(tensor: TensorSlice) -> Tensor:
    """The stored bytes of a tensor that lies row after row. CheckpointError where the file ends before them."""
    content = torch.empty(tensor.nbytes, dtype=torch.uint8)
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.offset)
        count = _read_into(file, content.numpy().data)
    if count < tensor.nbytes:
        raise CheckpointError(
            f"{tensor.file}: ended at byte {tensor.offset + count:,} while being read; was it changed?",
            advice="Let nothing else write to the checkpoint, and start again.",
        )
    return content


def _read_into(file: RawIOBase, buffer: memoryview) -> int:
    """Bytes read until the buffer is full or the file ends: one call gives 2 GB at most."""
    done = 0
    while done < len(buffer) and (count := file.readinto(buffer[done:])):
        done += count
    return done


def _by_strides(tensor: TensorSlice) -> Tensor:
    """The file is mapped, copy on write: torch takes no array that it may not write to."""
    item, strides = tensor.dtype.nbytes, tensor.strides or ()
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    mapped = np.memmap(tensor.file, np.uint8, "c", tensor.offset, (span * item,))
    steps = (*(stride * item for stride in strides), 1)
    elements = np.lib.stride_tricks.as_strided(mapped, (*tensor.shape, item), steps)
    return torch.from_numpy(np.array(elements, order="C")).flatten()


def row_blocks(tensor: Piece) -> Iterator[Piece]:
    """The piece in blocks of whole rows, the values of each about BLOCK_BYTES long."""
    rows = max(BLOCK_BYTES // max(prod(tensor.shape[1:]) * value_type(tensor).nbytes, 1), 1)
    for start in range(0, tensor.shape[0], rows):
        yield tensor.rows(start, min(start + rows, tensor.shape[0]))
