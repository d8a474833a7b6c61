"""The digest of a file that is still arriving, made in a thread of its own, in file order."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Event, Thread

from llama_convert.convert.digests import Extent, hasher
from llama_convert.hub.journal import Journal
from llama_convert.hub.segments import Work, checksum

_PIECE = 8 << 20


class Arrival(Thread):
    """Reads each segment back as soon as all before it are here. found: the digest, once the thread has ended.

    A segment of an earlier run that reads otherwise than its journal says, after a crash for instance, is fetched
    again. on_lost: told its bytes. failure: what ended the thread before its time.
    """

    def __init__(
        self, descriptor: int, journal: Journal, work: Work, algorithm: str, on_lost: Callable[[int], None]
    ) -> None:
        super().__init__(name="digest", daemon=True)
        self.found: str | None = None
        self.failure: BaseException | None = None
        self._descriptor, self._work = descriptor, work
        self._earlier = dict(journal.checksums)
        self._hasher = hasher(Extent(algorithm, ((0, work.segments.size),)))
        self._on_lost = on_lost
        self._halted = Event()
        self._buffer = memoryview(bytearray(_PIECE))

    def halt(self) -> None:
        """It ends soon, without a digest."""
        self._halted.set()
        self._work.wake()

    def run(self) -> None:
        """The thread's work."""
        try:
            if all(map(self._taken_in, range(len(self._work.segments)))):
                self.found = self._hasher.hexdigest()
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            self.failure = error

    def _taken_in(self, index: int) -> bool:
        """The segment, once it is here and sound; False where there is no more waiting for it."""
        while self._work.wait_for(index, self._halted):
            before, expected = self._hasher.copy(), self._earlier.pop(index, None)
            found = self._read(index, checked=expected is not None)
            if self._halted.is_set():
                return False
            if found == expected:
                return True
            self._hasher = before
            self._on_lost(self._work.segments.length([index]))
            self._work.lost(index)
        return False

    def _read(self, index: int, *, checked: bool) -> int | None:
        """The segment's bytes into the digest; its checksum, where that is asked for."""
        position, stop = self._work.segments.span(index)
        total = 0
        while position < stop and not self._halted.is_set():
            count = os.preadv(self._descriptor, [self._buffer[: stop - position]], position)
            if not count:
                break
            self._hasher.update(self._buffer[:count])
            total += checksum(self._buffer[:count], position) if checked else 0
            position += count
        return total % (1 << 64) if checked else None
