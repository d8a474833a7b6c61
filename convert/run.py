"""A plan carried out by several threads: every output byte has its place beforehand, so order does not matter.

Bytes that stay as they are go through one small buffer, where their checksums are taken on the way: that of the
source's record and that of the output's tensor, which the certificate has, are one where both have the same bytes.
The kernel's copy_file_range would spare the buffer and gain nothing, for every byte has to be read for its checksum
in any case. CPU time of one thread for 1 GiB in the page cache: 0.20 s by the kernel and 0.25 s for its CRC-32
afterwards, 0.26 s and 0.25 s through the buffer; least time on the clock 0.52 s and 0.47 s. Only file systems that
let two files share blocks would copy faster, and hardly any tensor lies alike within its blocks on both sides.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import TypeAlias

import numpy as np

from llama_convert.convert.arithmetic import count_not_finite
from llama_convert.convert.blocks import BLOCK_BYTES, Block, OpenFiles, blocks, rounded
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import TensorSlice
from llama_convert.convert.errors import SpaceError
from llama_convert.convert.expressions import Cast, Expression, Grouped, nbytes, runs, slices
from llama_convert.convert.integrity import Checks, crc32
from llama_convert.convert.outputs import Step, WeightFile
from llama_convert.convert.plan import WORKERS, Plan


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


@dataclass(frozen=True, slots=True)
class Written:
    """An output tensor is done: all its bytes, which have this CRC-32. file, step: their numbers in the plan."""

    file: int
    step: int
    crc32: int


Happening: TypeAlias = Moved | Unusual | Written


def run(plan: Plan, folder: Path, checks: Checks) -> Iterator[Happening]:
    """Write the plan's weight files into the folder, yielding what happens as it happens.

    Every file is allocated whole first, so that a full disk shows at once (SpaceError). Stops early, without
    an error of its own, when a check has failed: `checks.finish` then says all that is wrong.
    Tensors are moved in the order in which the source holds them, whatever file they go to.
    Memory: a few blocks of rows for each thread. Files are not yet synced.
    """
    events: SimpleQueue[Happening | Future[Written | None]] = SimpleQueue()
    with ExitStack() as stack:
        sources = stack.enter_context(_opened(plan.source))
        targets = [stack.enter_context(_created(file, folder)) for file in plan.files]
        stop = Event()
        pool = stack.enter_context(_workers(stop))
        mover = _Mover(sources, checks, stop, events.put)
        order = _in_source_order(plan.files)
        for file, step in order:
            future = pool.submit(mover.write, (file, step), plan.files[file], targets[file])
            future.add_done_callback(events.put)
        endings = _Endings(plan.files, targets)
        waiting = len(order)
        while waiting:
            event = events.get()
            if isinstance(event, Future):
                waiting -= 1
                if written := event.result():
                    endings.note(written)
                    yield written
            else:
                yield event


def _in_source_order(files: Sequence[WeightFile]) -> list[tuple[int, int]]:
    """Numbers of file and step: what is read for several tensors is read while it is still in memory."""

    def place(number: tuple[int, int]) -> tuple[str, int]:
        first = slices(files[number[0]].steps[number[1]].expression)[0]
        return str(first.file), first.offset

    return sorted(((file, step) for file in range(len(files)) for step in range(len(files[file].steps))), key=place)


class _Endings:
    """What can be written into a file only when all its tensors are."""

    def __init__(self, files: Sequence[WeightFile], targets: Sequence[int]) -> None:
        self._files = files
        self._targets = targets
        self._found: list[dict[int, int]] = [{} for _ in files]

    def note(self, written: Written) -> None:
        """Count a step; write the file's ending after its last."""
        file, found = self._files[written.file], self._found[written.file]
        found[written.step] = written.crc32
        if file.ending and len(found) == len(file.steps):
            _write_pieces(self._targets[written.file], file.ending([found[step] for step in range(len(file.steps))]))


@contextmanager
def _opened(source: Checkpoint) -> Iterator[OpenFiles]:
    with OpenFiles() as files:
        for file in source.files:  # beforehand: threads only look them up
            files.descriptor(file.path)
        yield files


@contextmanager
def _created(file: WeightFile, folder: Path) -> Iterator[int]:
    """The file's descriptor, with its header written and room for all of it."""
    with (folder / file.name).open("xb", buffering=0) as output:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(output.fileno(), 0, file.size)
            else:
                output.truncate(file.size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise SpaceError(
                f"{folder / file.name}: no room for its {file.size:,} bytes",
                advice="Free some space, or choose another disk.",
            ) from error
        _write_pieces(output.fileno(), file.fixed)
        yield output.fileno()


@contextmanager
def _workers(stop: Event) -> Iterator[ThreadPoolExecutor]:
    """Threads that are told to stop, and waited for, when the block is left for whatever reason."""
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="move")
    try:
        yield pool
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


class _Checksum:
    """A CRC-32 taken as bytes pass by."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, block: Block) -> None:
        self.value = zlib.crc32(block.data, self.value)


@dataclass(frozen=True, slots=True)
class _Mover:
    """Writes one tensor at a time, in as many threads as there are."""

    sources: OpenFiles
    checks: Checks
    stop: Event
    tell: Callable[[Happening], None]

    def write(self, number: tuple[int, int], file: WeightFile, target: int) -> Written | None:
        """All bytes of an output tensor to its place; None and not all of them once the run is to stop."""
        step = file.steps[number[1]]
        checksum = _Checksum()
        pieces = runs(step.expression)
        if pieces is None:
            self._write_blocks(step, step.expression, target, step.offset, checksum)
        else:
            position = step.offset
            for piece in pieces:
                if isinstance(piece, TensorSlice):
                    self._write_piece(step, piece, target, position, checksum)
                    position += piece.nbytes
                else:
                    self._write_blocks(step, piece, target, position, checksum)
                    position += nbytes(piece)
        _begin_writing(target, step)
        for tensor in slices(step.expression):
            if not self._stopped() and tensor.record is not None and self.checks.claim(tensor.record):
                self.checks.report(tensor.record, crc32(tensor.record))
        return None if self._stopped() else Written(*number, checksum.value)

    def _stopped(self) -> bool:
        return self.stop.is_set() or self.checks.damaged

    def _write_piece(self, step: Step, piece: TensorSlice, target: int, position: int, checksum: _Checksum) -> None:
        record = piece.record
        whole = record is not None and (record.offset, record.nbytes) == (piece.offset, piece.nbytes)
        if record is None or not whole or not self.checks.claim(record):
            self._copy(step, piece, target, position, {checksum})
            return
        # One checksum serves both ends where the record is all of the tensor.
        own = checksum if piece.nbytes == step.nbytes else _Checksum()
        if self._copy(step, piece, target, position, {own, checksum}):
            self.checks.report(record, own.value)

    def _copy(self, step: Step, piece: TensorSlice, target: int, position: int, checksums: set[_Checksum]) -> bool:
        """The piece through a buffer, past the checksums; whether the end was reached."""
        buffer: Block = np.empty(min(BLOCK_BYTES, piece.nbytes), np.uint8)
        done = 0
        while done < piece.nbytes:
            if self._stopped():
                return False
            block = buffer[: piece.nbytes - done]
            self.sources.read_into(piece.file, piece.offset + done, block)
            for checksum in checksums:
                checksum.add(block)
            _write(target, block, position + done)
            done += block.nbytes
            self.tell(Moved(step.name, block.nbytes))
        return True

    def _write_blocks(
        self, step: Step, expression: Expression, target: int, position: int, checksum: _Checksum
    ) -> None:
        rounding = expression if isinstance(expression, (Cast, Grouped)) else None
        before = after = 0
        for block in blocks(rounding.source if rounding else expression, self.sources):
            if self._stopped():
                return
            if rounding:
                before += count_not_finite(block, rounding.source.dtype)
                block = rounded(rounding, block)
                after += count_not_finite(block, rounding.dtype)
            block = np.ascontiguousarray(block)
            checksum.add(block)
            _write(target, block, position)
            position += block.nbytes
            self.tell(Moved(step.name, block.nbytes))
        if before or after:
            self.tell(Unusual(step.name, before, max(after - before, 0)))


def _begin_writing(target: int, step: Step) -> None:
    """Let the disk start on the tensor's bytes now, so that the sync at the end finds little left to do.

    "These pages are not needed" is the one portable way to say so without waiting for the disk.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(target, step.offset, step.nbytes, os.POSIX_FADV_DONTNEED)


def _write(target: int, block: Block, position: int) -> None:
    _write_bytes(target, block.data.cast("B"), position)


def _write_pieces(target: int, pieces: Sequence[tuple[int, bytes]]) -> None:
    for position, piece in pieces:
        _write_bytes(target, memoryview(piece), position)


def _write_bytes(target: int, view: memoryview, position: int) -> None:
    while view:
        count = os.pwrite(target, view, position)
        view, position = view[count:], position + count
