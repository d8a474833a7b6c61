"""The product of vectors with a matrix of weights, by whichever of torch's ways is fastest for it.

All of them make the same sums, in an order of their own; what differs is how fast they read. Measured with torch 2.13
on an x86 CPU, in benchmarks/results/generate.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Into so many pieces of rows is a matrix cut.
_PIECES = 8
# For more vectors pieces are no faster.
_MOST_VECTORS = 512
# Around a change of torch's settings, which are those of all threads.
_SETTINGS = threading.Lock()


def product(vectors: Tensor, weight: Tensor) -> Tensor:
    """(..., columns), (rows, columns) -> (..., rows): every vector with every row."""
    if weight.device.type == "cpu":
        if weight.dtype is torch.bfloat16 and _count(vectors) == 1:
            return _alone(vectors, weight)
        if weight.dtype is torch.float32 and _count(vectors) <= _MOST_VECTORS and weight.shape[0] % _PIECES == 0:
            return _by_pieces(vectors, weight)
    return torch.nn.functional.linear(vectors, weight)


def _count(vectors: Tensor) -> int:
    return vectors.numel() // vectors.shape[-1]


def _alone(vector: Tensor, weight: Tensor) -> Tensor:
    """One vector in bfloat16: reading the weights is all that takes time.

    torch's own loop reads them at the speed of memory, oneDNN's, which it prefers, at two thirds of that. A program
    that torch compiles has a loop made for it.
    """
    if torch.compiler.is_compiling():
        return (weight.float() * vector.float()).sum(-1).to(weight.dtype).view(*vector.shape[:-1], -1)
    with _without_onednn():
        return torch.nn.functional.linear(vector, weight)


@contextmanager
def _without_onednn() -> Iterator[None]:
    with _SETTINGS:
        before = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # a property of the module
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = before


def _by_pieces(vectors: Tensor, weight: Tensor) -> Tensor:
    """In float32: MKL gives every core its share of several products, but seldom of one with few vectors."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    pieces = torch.unflatten(weight, 0, (_PIECES, -1)).transpose(1, 2)
    return torch.bmm(flat.expand(_PIECES, *flat.shape), pieces).transpose(0, 1).reshape(*vectors.shape[:-1], -1)
