"""Whether two stored tensors are equal, at the least cost that proves it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from llama_convert.convert.blocks import BLOCK_BYTES, OpenFiles, read, spans
from llama_convert.convert.containers.slices import Record, TensorSlice
from llama_convert.convert.containers.sources import is_far
from llama_convert.convert.expressions import Expression, Joined, Stored, slices

_SAMPLE = 4096  # bytes of a tensor that is far away, in each of three places


def same(first: Expression, second: Expression) -> bool:
    """Whether two tensors are equal bit for bit; stops at the first block that differs.

    Cost: nothing where checksums of their records differ. Of tensors on this machine that are equal, both are read.
    Of others (a file on the Hub) nothing is read where checksums of all records are equal; without checksums three
    samples are, which tells a head from an embedding, but proves nothing.
    """
    if first == second:
        return True
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    told = _told(first, second)
    far = any(is_far(tensor.file) for tensor in (*slices(first), *slices(second)))
    if told is False or (told and far):
        return told
    where = _samples(list(spans(first, _SAMPLE, second))) if far else spans(first, BLOCK_BYTES, second)
    return _equal(first, second, where)


def _told(first: Expression, second: Expression) -> bool | None:
    """What the checksums of their records say; None where they say nothing, as of tensors within larger records."""
    if isinstance(first, Joined) and isinstance(second, Joined) and first.axis == second.axis:
        if [part.shape for part in first.parts] != [part.shape for part in second.parts]:
            return None
        verdicts = [_told(part, other) for part, other in zip(first.parts, second.parts, strict=True)]
        return False if False in verdicts else None if None in verdicts else True
    if not isinstance(first, Stored) or not isinstance(second, Stored):
        return None
    mine, other = _own_record(first.slice), _own_record(second.slice)
    return mine.crc32 == other.crc32 if mine and other else None


def _own_record(tensor: TensorSlice) -> Record | None:
    """The checksummed record that holds this tensor in order and nothing else, if there is one."""
    record = tensor.record
    if record is None or record.crc32 is None or tensor.strides is not None:
        return None
    return record if (record.offset, record.nbytes) == (tensor.offset, tensor.nbytes) else None


def _samples(blocks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    last = len(blocks) - 1
    return [blocks[number] for number in dict.fromkeys((0, last // 2, last))]


def _equal(first: Expression, second: Expression, where: Iterable[tuple[int, int]]) -> bool:
    with OpenFiles() as files:
        return all(
            np.array_equal(read(first, start, stop, files), read(second, start, stop, files)) for start, stop in where
        )
