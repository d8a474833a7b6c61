"""Weights read while the last ones are computed with."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future

from torch import Tensor

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.forward import Load, stored_head
from llama_convert.verify.reading import Piece, row_blocks

# glibc's mallopt: blocks from this size on are given back to the system as soon as they are freed. Left to itself
# it keeps those of up to 32 MiB for each thread, and a run took 0.8 or 1.6 GB, as it happened.
_M_MMAP_THRESHOLD, _GIVEN_BACK = -3, 1 << 20
_ATTENTION = (Role.ATTENTION_NORM, Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION_OUT)
_FEED_FORWARD = (Role.FFN_NORM, Role.GATE, Role.UP, Role.DOWN)


def read_ahead(load: Load, checkpoint: Checkpoint, executor: Executor) -> Load:
    """The same weights, those that a run comes to next being read in the executor's threads.

    What is asked for out of that order (rows of the embedding) is read when it is asked for.
    Memory: one matrix more.
    """
    rest = _in_order(checkpoint)
    waiting: deque[tuple[tuple[Weight, Piece], Future[Tensor]]] = deque()

    def refill() -> None:
        """Until a matrix is among what waits: a norm is of no weight."""
        while not any(len(piece.shape) == 2 for (_, piece), _ in waiting) and (key := next(rest, None)):
            waiting.append((key, executor.submit(load, *key)))

    def ready(weight: Weight, piece: Piece) -> Tensor:
        if not waiting or waiting[0][0] != (weight, piece):
            return load(weight, piece)
        found = waiting.popleft()[1].result()
        refill()
        return found

    give_memory_back()
    refill()
    return ready


def give_memory_back() -> None:
    """From now on large blocks of memory go back to the system when they are freed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK)


def _in_order(checkpoint: Checkpoint) -> Iterator[tuple[Weight, Piece]]:
    """Every piece in the order in which a run asks for it."""
    for layer in range(checkpoint.config.layers):
        for roles in (_ATTENTION, _FEED_FORWARD):
            yield from _of_shards(checkpoint, [Weight(role, layer) for role in roles])
    head = stored_head(checkpoint)
    for rank, piece in enumerate(checkpoint.parts[head].pieces):
        norm = Weight(Role.FINAL_NORM)
        yield norm, checkpoint.parts[norm].pieces[rank]
        yield from ((head, rows) for rows in row_blocks(piece))


def _of_shards(checkpoint: Checkpoint, weights: Iterable[Weight]) -> Iterator[tuple[Weight, Piece]]:
    weights = list(weights)
    for pieces in zip(*(checkpoint.parts[weight].pieces for weight in weights), strict=True):
        yield from zip(weights, pieces, strict=True)
