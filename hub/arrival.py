"""The digest of a file that is still arriving, made in a thread of its own, in file order."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Event, Thread

from llama_convert.convert.digests import Extent, hasher
from llama_convert.convert.errors import CheckpointError
from llama_convert.hub.journal import Journal
from llama_convert.hub.segments import Work, checksum

_PIECE = 1 << 20
_LOSSES = 3  # times that a disk may lose the same segment


class Arrival(Thread):
    """Reads each segment back as soon as all before it are here. found: the digest, once the thread has ended.

    A segment that reads otherwise than its journal says, after a crash for instance, is fetched again.
    on_lost: told its bytes. failure: what ended the thread before its time.
    """

    def __init__(
        self, descriptor: int, journal: Journal, work: Work, algorithm: str, on_lost: Callable[[int], None]
    ) -> None:
        super().__init__(name="digest", daemon=True)
        self.found: str | None = None
        self.failure: BaseException | None = None
        self._descriptor, self._journal, self._work = descriptor, journal, work
        self._hasher = hasher(Extent(algorithm, ((0, work.segments.size),)))
        self._on_lost = on_lost
        self._halted = Event()
        self._buffer = memoryview(bytearray(_PIECE))

    def halt(self) -> None:
        """It ends soon, without a digest."""
        self._halted.set()

    def run(self) -> None:
        """The thread's work."""
        try:
            if all(map(self._taken_in, range(len(self._work.segments)))):
                self.found = self._hasher.hexdigest()
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            self.failure = error

    def _taken_in(self, index: int) -> bool:
        """The segment, once it is here and sound; False where there is no more waiting for it."""
        for _ in range(_LOSSES):
            if not self._work.wait_for(index, self._halted):
                return False
            before = self._hasher.copy()
            if self._read(index) == self._journal.checksums[index]:
                return True
            self._hasher = before
            if self._halted.is_set():
                return False
            self._on_lost(self._work.segments.length([index]))
            self._work.lost(index)
        raise CheckpointError(
            f"{self._journal.names.part}: bytes {self._work.segments.span(index)[0]:,} and following read otherwise "
            f"than they were written, {_LOSSES} times",
            advice="Check this disk and the machine's memory.",
        )

    def _read(self, index: int) -> int:
        """Its checksum, and its bytes in the digest."""
        position, stop = self._work.segments.span(index)
        total = 0
        while position < stop and not self._halted.is_set():
            count = os.preadv(self._descriptor, [self._buffer[: stop - position]], position)
            if not count:
                break
            self._hasher.update(self._buffer[:count])
            total += checksum(self._buffer[:count], position)
            position += count
        return total % (1 << 64)
