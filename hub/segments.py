"""A file in segments: their bounds, which of them are here, and which a connection is to fetch next."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Condition, Event

import numpy

SEGMENT = 8 << 20
# Segments that one request asks for: a connection is not kept behind it, and what lies between the first and the
# last connection is read again from the page cache for the digest.
_RUN = 16
_TICK = 0.5  # seconds after which a waiting thread looks whether it is still wanted
_WORD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """A file of `size` bytes in pieces of `nbytes`, the last one shorter."""

    size: int
    nbytes: int

    def __len__(self) -> int:
        return (self.size + self.nbytes - 1) // self.nbytes

    def span(self, index: int) -> tuple[int, int]:
        """The segment's first byte, and the one behind its last."""
        return index * self.nbytes, min((index + 1) * self.nbytes, self.size)

    def length(self, indices: Iterable[int]) -> int:
        """Bytes of these segments together."""
        return sum(stop - start for start, stop in map(self.span, indices))


def checksum(data: memoryview, position: int) -> int:
    """The sum of 64-bit words modulo 2**64 that these bytes add to, when they lie at `position` of the file.

    Checksums of neighbouring pieces add up to that of the whole. It tells which segment a disk has lost, at fifteen
    times the speed of CRC-32; that a file is right is for its digest to say.
    """
    head = min(-position % _WORD, len(data))
    tail = head + (len(data) - head) // _WORD * _WORD
    words = numpy.frombuffer(data[head:tail], dtype="<u8")
    total = int.from_bytes(data[:head], "little") << position % _WORD * 8
    return (total + int(numpy.add.reduce(words)) + int.from_bytes(data[tail:], "little")) % (1 << 64)


class Work:
    """Which segments are missing and which are here; threads take from it and wait at it."""

    def __init__(self, segments: Segments, here: Iterable[int], connections: int) -> None:
        self.segments = segments
        self.here = set(here)
        self._missing = [index for index in range(len(segments)) if index not in self.here]
        self._connections = connections
        self._changed = Condition()

    def take(self, halted: Event, *, everything: bool = False) -> range:
        """Neighbouring missing segments to fetch, waited for; none once halted.

        everything: up to the last missing one, with those between that are here, for a server without ranges.
        """
        with self._changed:
            while not self._missing and not halted.is_set():
                self._changed.wait(_TICK)
            if halted.is_set():
                return range(0)
            first = self._missing[0]
            if everything:
                run = range(first, self._missing[-1] + 1)
                self._missing.clear()
                return run
            count = 1
            while count < min(self._most(), len(self._missing)) and self._missing[count] == first + count:
                count += 1
            del self._missing[:count]
            return range(first, first + count)

    def _most(self) -> int:
        """Shorter runs at the end: no connection is to finish long after the others."""
        return max(1, min(_RUN, len(self._missing) // (2 * self._connections)))

    def lost(self, index: int) -> None:
        """The segment is not here after all."""
        with self._changed:
            self.here.discard(index)
            insort(self._missing, index)
            self._changed.notify_all()

    def recall(self) -> None:
        """All that is not here is missing, whoever has it in hand."""
        with self._changed:
            self._missing = [index for index in range(len(self.segments)) if index not in self.here]
            self._changed.notify_all()

    def is_complete(self) -> bool:
        """Whether every segment is here."""
        return len(self.here) == len(self.segments)

    def wake(self) -> None:
        """Whoever waits here looks whether he is still wanted."""
        with self._changed:
            self._changed.notify_all()

    def arrived(self, index: int) -> None:
        """This segment is here."""
        with self._changed:
            self.here.add(index)
            self._changed.notify_all()

    def wait_for(self, index: int, halted: Event) -> bool:
        """Whether the segment has come; not where the wait was halted."""
        with self._changed:
            while index not in self.here and not halted.is_set():
                self._changed.wait(_TICK)
            return index in self.here
