"""Checksums held against the bytes as they are read: CRC-32 of every `.pth` record, listed digests."""

from __future__ import annotations

import os
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from llama_convert.convert.checklist import HASHERS, mismatches, read_checklist
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import Record
from llama_convert.convert.errors import CheckpointError, counted

_CHUNK = 4 << 20


def crc32(record: Record) -> int:
    """The CRC-32 of a record's bytes as they are now. Cost: one reading; several GB/s from the page cache."""
    buffer = memoryview(bytearray(min(_CHUNK, record.nbytes)))
    position, end, value = record.offset, record.offset + record.nbytes, 0
    with record.file.open("rb", buffering=0) as file:
        while position < end:
            count = os.preadv(file.fileno(), [buffer[: end - position]], position)
            if not count:
                return -1
            value = zlib.crc32(buffer[:count], value)
            position += count
    return value


class Checks:
    """The checks of one run. The threads that move the bytes report here what they read.

    enabled: False checks nothing. damaged: a reported record is not what its file says. Use as a context:
    leaving it on an error drops what has not started.
    """

    def __init__(self, source: Checkpoint, *, enabled: bool) -> None:
        self._source = source
        self._enabled = enabled
        self._pool = ThreadPoolExecutor(HASHERS, thread_name_prefix="digest")
        self._digests: list[Future[list[str]]] = []
        self._lock = Lock()
        self._found: dict[Record, int | None] = {}
        self.damaged = False

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
        listed = set(read_checklist(self._source.folder))
        shards = {file.path.name for file in self._source.files}
        told_by_crc = len(shards) == 1 and self._source.files[0].index_sha256 is not None
        return {name for name in listed if (self._source.folder / name).is_file()} - (shards if told_by_crc else set())

    def _mismatches(self, names: set[str]) -> list[str]:
        return list(mismatches(self._source.folder, names))

    def claim(self, record: Record | None) -> bool:
        """Whether the caller is to check this record: it has a checksum, and nobody has claimed it before."""
        if not self._enabled or record is None or record.crc32 is None:
            return False
        with self._lock:
            first = record not in self._found
            self._found.setdefault(record, None)
        return first

    def report(self, record: Record, value: int) -> None:
        """The CRC-32 that a claimed record's bytes turned out to have."""
        self._found[record] = value
        self.damaged = self.damaged or value != record.crc32

    def finish(self) -> int:
        """Wait for the digests; the number of records found right.

        Raises CheckpointError with everything that is not: where one record is damaged, the ones that the
        stopped run did not come to are read now, so that all are named.
        """
        if self.damaged:
            self._check_the_rest()
        problems = [
            f"{record.file.name}: record {record.name} at offset {record.offset:,} has CRC-32 "
            f"{value:08x}, stored is {record.crc32:08x}{self._names(record)}"
            for record, value in self._found.items()
            if value is not None and value != record.crc32
        ]
        problems += [problem for future in self._digests for problem in future.result()]
        if problems:
            raise CheckpointError(
                f"{self._source.path}: {counted(len(problems), 'wrong checksum')}: bytes changed or files mixed up",
                problems=problems,
                advice="Fetch the named files again.",
            )
        return len(self._found)

    def _check_the_rest(self) -> None:
        records = {tensor.record for file in self._source.files for tensor in file.tensors.values()}
        for record in records:
            if record is not None and record.crc32 is not None and self._found.get(record) is None:
                self.report(record, crc32(record))

    def _names(self, record: Record) -> str:
        names = [
            name for file in self._source.files for name, tensor in file.tensors.items() if tensor.record == record
        ]
        return f" ({', '.join(names)})" if names else ""
