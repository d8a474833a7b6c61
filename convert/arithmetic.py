"""The only places of a conversion where numbers are computed with; torch is imported here, when used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.containers.slices import DType

if TYPE_CHECKING:
    from torch import Tensor


def cast(block: NDArray[np.uint8], source: DType, target: DType) -> NDArray[np.uint8]:
    """The block's elements rounded to another type, to nearest, ties to even. (rows, bytes) in and out."""
    import torch

    elements = _elements(block, source).to(getattr(torch, target.label))
    rounded: NDArray[np.uint8] = elements.view(torch.uint8).numpy().reshape(block.shape[0], -1)
    return rounded


def count_not_finite(block: NDArray[np.uint8], dtype: DType) -> int:
    """How many of the block's elements are NaN or infinite."""
    elements = _elements(block, dtype)
    return elements.numel() - int(elements.isfinite().sum())


def _elements(block: NDArray[np.uint8], dtype: DType) -> Tensor:
    import torch

    return torch.from_numpy(block).flatten().view(getattr(torch, dtype.label))
