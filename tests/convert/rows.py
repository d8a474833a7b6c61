"""Rows of embedding and head: as the files hold them, and as they should be."""

from __future__ import annotations

import torch

from llama_convert.convert import Checkpoint
from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.blocks import OpenFiles, blocks, read
from llama_convert.convert.expressions import Expression
from llama_convert.convert.vocabulary import Init, NewRows

TOKENS, HEAD = Weight(Role.TOKENS), Weight(Role.HEAD)
MEAN, ZERO = NewRows(init=Init.MEAN), NewRows(init=Init.ZERO)


def content(expression: Expression) -> bytes:
    with OpenFiles() as files:
        return b"".join(block.tobytes() for block in blocks(expression, files, size=1000))


def rows_of(checkpoint: Checkpoint, weight: Weight) -> torch.Tensor:
    """The weight as its files hold it."""
    expression = checkpoint.weight(weight)
    with OpenFiles() as files:
        found = read(expression, 0, expression.shape[0], files)
    return torch.from_numpy(found.copy()).view(getattr(torch, expression.dtype.label))


def nearest(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64 values in the type, to nearest even: the nearer of neighbours, found by their exact distances."""
    found = values.to(dtype)
    if dtype is torch.float32:
        return found
    bits = found.view(torch.int16)
    for step in (-1, 1):
        other = (bits + step).view(dtype)
        gain = (found.double() - values).abs() - (other.double() - values).abs()
        even = (gain == 0) & (other.view(torch.int16) % 2 == 0)
        found = torch.where((gain > 0) | even, other, found)
    return found
