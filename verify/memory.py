"""How much memory a model takes before it is loaded, and how much there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch

from llama_convert.convert.architecture import LlamaConfig, Role, Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import SpaceError, counted
from llama_convert.convert.memory import memory_bytes
from llama_convert.verify.forward import stored_head
from llama_convert.verify.matrices import GROUP
from llama_convert.verify.model import Holding, Model, held_in, is_view
from llama_convert.verify.reading import Piece

_ADVICE = (
    "Take --dtype bfloat16 or --quantization-encoding q4_0, fewer new tokens or sequences at a time, or a machine with "
    "more memory."
)
# Bytes of a value in a held matrix: codes of four bits, once or twice, and for each group two numbers of two bytes.
_HELD = {DType.Q4_0: 0.5 + 4 / GROUP, DType.Q8_0: 2 * (0.5 + 4 / GROUP)}


def weights_bytes(checkpoint: Checkpoint, holding: Holding) -> int:
    """Memory that `load_model` takes for the weights; views of mapped files, which can be had back, take none."""
    tokens = Weight(Role.TOKENS)
    # On a CPU the rows of an embedding that is no head are read from the file when they are needed.
    skipped = {tokens} if holding.device == "cpu" and stored_head(checkpoint) != tokens else set()
    found = (
        _piece_bytes(piece, holding)
        for weight, parts in checkpoint.parts.items()
        if weight not in skipped
        for piece in (parts.pieces if parts.axis is not None else parts.pieces[:1])
    )
    return int(sum(found))


def _piece_bytes(piece: Piece, holding: Holding) -> float:
    """What `load_model` makes of it: codes, a view of the file, or values."""
    kind = held_in(piece, holding)
    if kind is not None:
        return prod(piece.shape) * _HELD[kind]
    return 0 if is_view(piece, holding) else prod(piece.shape) * holding.dtype.itemsize


def cache_bytes(checkpoint: Checkpoint, holding: Holding, sequences: int, positions: int) -> int:
    """Memory of keys and values of so many sequences, each with room for so many tokens."""
    heads = checkpoint.config.kv_heads * checkpoint.kv_copies
    return _kept_bytes(checkpoint.config, heads, holding.dtype, sequences, positions)


def _kept_bytes(config: LlamaConfig, kv_heads: int, dtype: torch.dtype, sequences: int, positions: int) -> int:
    return 2 * config.layers * sequences * positions * kv_heads * config.head_dim * dtype.itemsize


def check_memory(checkpoint: Checkpoint, holding: Holding, sequences: int = 1, positions: int = 0) -> None:
    """SpaceError where weights and cache do not fit into what is free where they are to be."""
    weights, cache = weights_bytes(checkpoint, holding), cache_bytes(checkpoint, holding, sequences, positions)
    free = available(holding.device)
    if weights + cache > free:
        raise SpaceError(
            f"{checkpoint.path}: {_gigabytes(weights + cache)} of memory are needed on {holding.device} "
            f"(weights {_gigabytes(weights)}, keys and values {_gigabytes(cache)}), {_gigabytes(free)} are free",
            advice=_ADVICE,
        )


def places_for(model: Model, sequences: int, least: int, wanted: int, freed: int) -> int:
    """How many tokens of each sequence to make room for: as many as are wanted, if there is memory, or the least.

    freed: bytes that are given back for it. Raises SpaceError where not even the least have room.
    """
    free = available(model.device) + freed
    for places in (max(least, wanted), least):
        needed = _kept_bytes(model.config, model.kv_heads, model.dtype, sequences, places)
        if needed <= free:
            return places
    raise SpaceError(
        f"Keys and values of {least:,} tokens, {counted(sequences, 'sequence')}, take {_gigabytes(needed)} on "
        f"{model.device}, {_gigabytes(free)} are free",
        advice="Take shorter prompts, fewer new tokens or sequences at a time, or a machine with more memory.",
    )


@contextmanager
def told() -> Iterator[None]:
    """Within, a GPU whose memory does not suffice after all raises SpaceError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SpaceError("The GPU's memory does not suffice", advice=_ADVICE) from error


def available(device: str) -> int:
    """Bytes that can be had on the device; all there are where the system does not tell."""
    if device == "cuda":
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # held by torch for its next tensors
        return int(torch.cuda.mem_get_info()[0]) + unused
    total, free = memory_bytes()
    return total if free is None else free


def _gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f} GB"
