"""A byte source that remembers: what was read once is not fetched again."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from llama_convert.convert.containers.slices import ByteSource

PAGE = 1 << 16  # bytes fetched at the least: one request costs as much time as these


class Pages:
    """Another source, read in pages that are kept; neighbours that are missing come with one read of it.

    path: what readers are to call it. Several threads may read. Memory: all that was read.
    """

    def __init__(self, source: ByteSource, path: Path) -> None:
        self.path = path
        self.size = source.size
        self._source = source
        self._lock = Lock()
        self._pages: dict[int, bytes] = {}

    def read(self, offset: int, nbytes: int) -> bytes:
        """Up to nbytes bytes from offset; fewer only at the end. Raises what the source raises."""
        stop = min(offset + nbytes, self.size)
        if offset >= stop:
            return b""
        first, last = offset // PAGE, (stop - 1) // PAGE
        with self._lock:
            self._fetch(first, last)
            data = b"".join(self._pages[number] for number in range(first, last + 1))
        return data[offset - first * PAGE : stop - first * PAGE]

    def _fetch(self, first: int, last: int) -> None:
        """Have these pages, by one read for each run of missing ones."""
        missing = [number for number in range(first, last + 1) if number not in self._pages]
        while missing:
            run = [number for place, number in enumerate(missing) if number == missing[0] + place]
            data = self._source.read(run[0] * PAGE, len(run) * PAGE)
            for place, number in enumerate(run):
                self._pages[number] = data[place * PAGE : (place + 1) * PAGE]
            missing = missing[len(run) :]
