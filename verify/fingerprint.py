"""Fingerprints: a digest for each weight and one for all, the same for the same model in any lossless format.

The digest of a weight is of its canonical rows (as the tensors level has them) in the type that the model has it in:
where its rows lie, how it is cut, whether a norm is stored wider than it is, leaves no trace. A quantised weight
counts with its values in float32.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from llama_convert.convert.architecture import Role, Weight, weights
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import FLOATS, DType, Scaled
from llama_convert.verify.reading import torch_type
from llama_convert.verify.views import canonical_blocks

# hashlib lets go of the interpreter, so several weights are really hashed side by side.
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """SHA-256 in hexadecimal. weights: of each weight, in the order of the forward pass.

    model: of all of them together. A head that equals the embedding counts as tied, stored or not.
    """

    model: str
    weights: dict[Weight, str]


def fingerprint(checkpoint: Checkpoint, on_progress: Callable[[int], None] = lambda nbytes: None) -> Fingerprint:
    """The checkpoint's fingerprint. on_progress: called with the bytes of each weight when it is done.

    Cost: every weight read once, hashed at 0.5 to 1.5 GB/s a core. Memory: a block of rows for each thread.
    """
    wanted = list(weights(checkpoint.config))
    found: dict[Weight, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for weight, (digest, nbytes) in zip(wanted, pool.map(lambda w: _digest(checkpoint, w), wanted), strict=True):
            found[weight] = digest
            on_progress(nbytes)
    tokens, head = found[Weight(Role.TOKENS)], Weight(Role.HEAD)
    counted = {weight: digest for weight, digest in found.items() if weight != head or digest != tokens}
    lines = (f"{weight.role.name} {weight.layer} {digest}\n" for weight, digest in counted.items())
    return Fingerprint(model=hashlib.sha256("".join(lines).encode()).hexdigest(), weights=counted)


def _digest(checkpoint: Checkpoint, weight: Weight) -> tuple[str, int]:
    dtype = _type(checkpoint, weight)
    shape = checkpoint.config.shape(weight.role)
    hasher = hashlib.sha256(f"{dtype.label} {list(shape)}\n".encode())
    nbytes = 0
    for content in _bytes(checkpoint, weight, dtype):
        hasher.update(content)
        nbytes += content.nbytes
    return hasher.hexdigest(), nbytes


def _type(checkpoint: Checkpoint, weight: Weight) -> DType:
    """The type that the model has the weight in."""
    piece = checkpoint.parts[weight].pieces[0]
    if isinstance(piece, Scaled) or piece.dtype not in FLOATS:
        return DType.FLOAT32
    return checkpoint.dtype if weight in checkpoint.widened else piece.dtype


def _bytes(checkpoint: Checkpoint, weight: Weight, dtype: DType) -> Iterator[memoryview]:
    for block in canonical_blocks(checkpoint, weight):
        yield block.to(torch_type(dtype)).contiguous().view(torch.uint8).numpy().data.cast("B")
