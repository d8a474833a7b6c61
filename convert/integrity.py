"""Checksums held against the bytes while they are read: CRC-32 of every `.pth` record, listed digests."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from llama_convert.convert.checklist import mismatches, read_checklist
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import Record
from llama_convert.convert.errors import CheckpointError

_CHUNK = 1 << 20
# zlib and hashlib let go of the interpreter, so threads really run side by side.
_WORKERS = min(4, os.cpu_count() or 1)


def crc32(record: Record) -> int:
    """The CRC-32 of a record's bytes as they are now. Cost: one reading, several GB/s from the page cache."""
    buffer = memoryview(bytearray(_CHUNK))
    position, end, value = record.offset, record.offset + record.nbytes, 0
    with record.file.open("rb", buffering=0) as file:
        while position < end:
            count = os.preadv(file.fileno(), [buffer[: min(_CHUNK, end - position)]], position)
            if not count:
                return -1
            value = zlib.crc32(buffer[:count], value)
            position += count
    return value


class Checks:
    """The checks of one run, in threads beside the moving of the bytes.

    enabled: False checks nothing. Use as a context: leaving it on an error drops what has not started.
    """

    def __init__(self, source: Checkpoint, *, enabled: bool) -> None:
        self._source = source
        self._enabled = enabled
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="check")
        self._records: dict[Record, Future[int]] = {}
        self._digests: list[Future[list[str]]] = []

    def __enter__(self) -> Checks:
        if self._enabled:
            self._digests = [self._pool.submit(self._mismatches, {name}) for name in sorted(self._listed())]
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _listed(self) -> set[str]:
        """Files whose listed digest is checked: small ones, and shards where the CRCs cannot tell.

        CRC-32s inside a file see a flipped byte, but not two shards that changed places; and the stream
        format before torch 1.6 has none.
        """
        listed = set(read_checklist(self._source.path))
        shards = {file.path.name for file in self._source.files}
        told_by_crc = len(shards) == 1 and self._source.files[0].index_sha256 is not None
        return {name for name in listed if (self._source.path / name).is_file()} - (shards if told_by_crc else set())

    def _mismatches(self, names: set[str]) -> list[str]:
        return list(mismatches(self._source.path, names))

    def start(self, records: Iterable[Record]) -> None:
        """Check these records too, each once however often it is read; those without a CRC are passed over."""
        for record in records:
            if self._enabled and record.crc32 is not None and record not in self._records:
                self._records[record] = self._pool.submit(crc32, record)

    def keep_pace(self) -> None:
        """Wait for all records but the last few, so that their bytes are still in the page cache."""
        for record in list(self._records)[: -2 * _WORKERS]:
            self._records[record].result()

    def damaged(self) -> bool:
        """Whether a finished check failed."""
        return any(future.done() and future.result() != record.crc32 for record, future in self._records.items())

    def finish(self) -> int:
        """Wait for all checks; the number of records found right. CheckpointError with all that are not."""
        problems = [
            f"{record.file.name}: record {record.name} at offset {record.offset:,} has CRC-32 "
            f"{future.result():08x}, stored is {record.crc32:08x}{self._names(record)}"
            for record, future in self._records.items()
            if future.result() != record.crc32
        ]
        problems += [problem for future in self._digests for problem in future.result()]
        if problems:
            raise CheckpointError(
                f"{self._source.path}: {len(problems)} checksums do not match: bytes were changed or files mixed up",
                problems=problems,
                advice="Fetch the named files again.",
            )
        return len(self._records)

    def _names(self, record: Record) -> str:
        names = [
            name for file in self._source.files for name, tensor in file.tensors.items() if tensor.record == record
        ]
        return f" ({', '.join(names)})" if names else ""


def listed_digests(folder: Path) -> dict[str, str]:
    """What checklist.chk says, for the certificate."""
    return read_checklist(folder)
