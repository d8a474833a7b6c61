"""A plan carried out: bytes moved by the kernel where they stay as they are, in blocks of rows elsewhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama_convert.convert.arithmetic import cast, count_not_finite
from llama_convert.convert.blocks import BLOCK_BYTES, Block, OpenFiles, blocks
from llama_convert.convert.containers.slices import TensorSlice
from llama_convert.convert.errors import SpaceError
from llama_convert.convert.expressions import Cast, runs, slices
from llama_convert.convert.integrity import Checks
from llama_convert.convert.plan import Plan, Step, WeightFile

# Bytes the kernel is asked to copy at once; small enough for progress and interruption to be felt.
_KERNEL_BYTES = 64 << 20
# What copy_file_range answers where the file systems at hand cannot do it.
_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Moved:
    """Progress: so many more bytes of the output tensor `name` are written."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Unusual:
    """Found while a tensor was cast: elements that are NaN or infinite, before and only after."""

    name: str
    not_finite: int
    overflowed: int


def run(plan: Plan, folder: Path, checks: Checks) -> Iterator[Moved | Unusual]:
    """Write the plan's weight files into the folder, yielding progress.

    Every file is allocated whole first, so that a full disk shows at once (SpaceError). Stops early, without
    an error of its own, when a check has failed: `checks.finish` then says all that is wrong.
    Memory: a few blocks of rows. Files are not yet synced.
    """
    with OpenFiles() as sources:
        for file in plan.files:
            yield from _write_file(file, folder, sources, checks)


def _write_file(file: WeightFile, folder: Path, sources: OpenFiles, checks: Checks) -> Iterator[Moved | Unusual]:
    with (folder / file.name).open("xb", buffering=0) as output:
        target = output.fileno()
        _allocate(target, file, folder)
        os.pwrite(target, file.header, 0)
        for step in file.steps:
            checks.start(tensor.record for tensor in slices(step.expression) if tensor.record is not None)
            if checks.damaged():
                continue
            yield from _write_tensor(step, target, sources)
            checks.keep_pace()


def _allocate(target: int, file: WeightFile, folder: Path) -> None:
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(target, 0, file.size)
        else:
            os.ftruncate(target, file.size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise SpaceError(
            f"{folder / file.name}: no room for its {file.size:,} bytes",
            advice="Free some space, or choose another disk.",
        ) from error


def _write_tensor(step: Step, target: int, sources: OpenFiles) -> Iterator[Moved | Unusual]:
    pieces = runs(step.expression)
    if pieces is None:
        yield from _write_blocks(step, target, sources)
        return
    position = step.offset
    for piece in pieces:
        for count in _copy(piece, target, position, sources):
            yield Moved(step.name, count)
        position += piece.nbytes


def _copy(piece: TensorSlice, target: int, position: int, sources: OpenFiles) -> Iterator[int]:
    """The slice's bytes to `position`: inside the kernel, or through a buffer where that cannot be."""
    source, done = sources.descriptor(piece.file), 0
    while done < piece.nbytes:
        try:
            count = os.copy_file_range(
                source, target, min(piece.nbytes - done, _KERNEL_BYTES), piece.offset + done, position + done
            )
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_KERNEL_COPY:
                raise
            count = 0
        count = count or _copy_block(piece, done, target, position, sources)
        yield count
        done += count


def _copy_block(piece: TensorSlice, done: int, target: int, position: int, sources: OpenFiles) -> int:
    block = np.empty(min(piece.nbytes - done, BLOCK_BYTES), np.uint8)
    sources.read_into(piece.file, piece.offset + done, block)
    _write(target, block, position + done)
    return block.nbytes


def _write_blocks(step: Step, target: int, sources: OpenFiles) -> Iterator[Moved | Unusual]:
    position = step.offset
    cast_to = step.expression if isinstance(step.expression, Cast) else None
    before = after = 0
    for block in blocks(cast_to.source if cast_to else step.expression, sources):
        if cast_to:
            before += count_not_finite(block, cast_to.source.dtype)
            block = cast(block, cast_to.source.dtype, cast_to.dtype)
            after += count_not_finite(block, cast_to.dtype)
        _write(target, block, position)
        position += block.nbytes
        yield Moved(step.name, block.nbytes)
    if after:
        yield Unusual(step.name, before, after - before)


def _write(target: int, block: Block, position: int) -> None:
    view = np.ascontiguousarray(block).data.cast("B")
    while view:
        count = os.pwrite(target, view, position)
        view, position = view[count:], position + count
