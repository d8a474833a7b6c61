"""The ways in which a comparison takes weights from their files: as they are, as the other side has them, disturbed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from llama_convert.convert.architecture import Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.ahead import read_ahead
from llama_convert.verify.expectations import MEASURED
from llama_convert.verify.forward import Load, stored_head
from llama_convert.verify.reading import Piece, read, rounded_like, stored_type


@contextmanager
def ahead(load: Load, checkpoint: Checkpoint) -> Iterator[Load]:
    """The same weights, read in a thread of its own before they are asked for."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as executor:
        yield read_ahead(load, checkpoint, executor)
        executor.shutdown(cancel_futures=True)


def rounded_as(b: Checkpoint, compute: torch.dtype, device: str) -> Load:
    """Weights through the types in which B stores the same weights."""

    def load(weight: Weight, piece: Piece) -> Tensor:
        return rounded_like(read(piece), _stored(b, weight)).to(device).to(compute)

    return load


def disturbed_as(b: Checkpoint, compute: torch.dtype, device: str) -> Load:
    """Weights with noise, as large as the error of the quantised types in which B stores them; the same every time."""

    def load(weight: Weight, piece: Piece) -> Tensor:
        values = rounded_like(read(piece), _stored(b, weight)).float()
        error = MEASURED.get(stored_type(_stored(b, weight)), 0.0)
        seed = zlib.crc32(f"{weight} {piece}".encode())
        noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
        return values.add_(noise, alpha=error * float(values.square().mean().sqrt())).to(device).to(compute)

    return load


def _stored(checkpoint: Checkpoint, weight: Weight) -> Piece:
    """One of the pieces that hold the weight, all of one type."""
    return checkpoint.parts[weight if weight in checkpoint.parts else stored_head(checkpoint)].pieces[0]
