"""Weights read from their files into torch tensors: bytes by offset, nothing moved or rounded."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import torch
from torch import Tensor

from llama_convert.convert.containers.slices import DType, TensorSlice
from llama_convert.convert.errors import CheckpointError

# Bytes to read at once: large enough that system calls do not count, small beside the model.
BLOCK_BYTES = 16 << 20


def torch_type(dtype: DType) -> torch.dtype:
    """The same element type in torch."""
    found = getattr(torch, dtype.label)
    assert isinstance(found, torch.dtype)
    return found


def read(tensor: TensorSlice) -> Tensor:
    """The slice's elements, in its own shape and type; a copy, whatever the strides.

    Raises CheckpointError where the file ends before them.
    """
    content = _in_order(tensor) if tensor.strides is None else _by_strides(tensor)
    return content.view(torch_type(tensor.dtype)).reshape(tensor.shape)


def _in_order(tensor: TensorSlice) -> Tensor:
    buffer = bytearray(tensor.nbytes)
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        count = file.readinto(buffer)
    if count < tensor.nbytes:
        raise CheckpointError(
            f"{tensor.file}: ended at byte {tensor.offset + count:,} while being read; was it changed?",
            advice="Let nothing else write to the checkpoint, and start again.",
        )
    return torch.frombuffer(buffer, dtype=torch.uint8) if buffer else torch.empty(0, dtype=torch.uint8)


def _by_strides(tensor: TensorSlice) -> Tensor:
    """The file is mapped, copy on write: torch takes no array that it may not write to."""
    item, strides = tensor.dtype.nbytes, tensor.strides or ()
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    mapped = np.memmap(tensor.file, np.uint8, "c", tensor.offset, (span * item,))
    steps = (*(stride * item for stride in strides), 1)
    elements = np.lib.stride_tricks.as_strided(mapped, (*tensor.shape, item), steps)
    return torch.from_numpy(np.array(elements, order="C")).flatten()


def row_blocks(tensor: TensorSlice) -> Iterator[TensorSlice]:
    """The slice in blocks of whole rows, each about BLOCK_BYTES long."""
    rows = max(BLOCK_BYTES // max(prod(tensor.shape[1:]) * tensor.dtype.nbytes, 1), 1)
    for start in range(0, tensor.shape[0], rows):
        yield tensor.rows(start, min(start + rows, tensor.shape[0]))
