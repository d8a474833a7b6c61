"""One file on its way into a part: several connections, one digest, and what to do when a source fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Protocol

from llama_convert.hub.arrival import Arrival
from llama_convert.hub.journal import Journal
from llama_convert.hub.remote import RangesIgnoredError
from llama_convert.hub.segments import Work, checksum
from llama_convert.hub.wire import HaltedError
from llama_convert.hub.xet import XetError

_TICK = 0.05  # seconds between two reports of progress
_FAREWELL = 1.0  # seconds that threads are given to end; one that hangs in a library is left behind


class Source(Protocol):
    """Where ranges come from."""

    def pieces(self, start: int, stop: int, *, halted: Event, ranges_only: bool) -> Generator[memoryview, None, None]:
        """The bytes from start to stop; a view holds until the next is asked for."""


@dataclass(slots=True)
class Progress:
    """What the threads have done: fetched: bytes that came; lost: bytes of an earlier run that were not sound."""

    fetched: int = 0
    lost: int = 0
    heard: float = field(default_factory=time.monotonic)
    lock: Lock = field(default_factory=Lock)

    def add(self, nbytes: int) -> None:
        """More bytes came."""
        with self.lock:
            self.fetched += nbytes
            self.heard = time.monotonic()

    def lose(self, nbytes: int) -> None:
        """Bytes that were thought to be here are not."""
        with self.lock:
            self.lost += nbytes


class Connection(Thread):
    """Takes runs of segments, fetches them, and puts them where they belong. failure: what ended it early."""

    def __init__(self, source: Source, descriptor: int, journal: Journal, work: Work, progress: Progress) -> None:
        super().__init__(name="connection", daemon=True)
        self.failure: BaseException | None = None
        self.sequential = False
        self._source, self._descriptor, self._journal = source, descriptor, journal
        self._work, self._progress = work, progress
        self._halted = Event()
        self._writing = Lock()

    def halt(self) -> None:
        """Nothing is written any more once this returns, even where the thread hangs somewhere."""
        self._halted.set()
        with self._writing:
            pass

    def run(self) -> None:
        """The thread's work."""
        try:
            while run := self._work.take(self._halted, everything=self.sequential):
                self._fetch(run)
        except HaltedError:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            self.failure = error

    def _fetch(self, run: range) -> None:
        """The run's segments, in order."""
        segments = self._work.segments
        start, stop = segments.span(run[0])[0], segments.span(run[-1])[1]
        left = iter(run)
        index, total = next(left), 0
        pieces = self._source.pieces(start, stop, halted=self._halted, ranges_only=not self.sequential)
        with closing(pieces):
            for piece in pieces:
                self._progress.add(len(piece))
                while piece:
                    end = segments.span(index)[1]
                    part = piece[: end - start]
                    total += checksum(part, start)
                    self._write(index, part, start)
                    start, piece = start + len(part), piece[len(part) :]
                    if start == end:
                        self._arrived(index, total)
                        index, total = next(left, index), 0

    def _write(self, index: int, data: memoryview, position: int) -> None:
        if index in self._work.here:
            return
        with self._writing:
            if self._halted.is_set():
                raise HaltedError
            while data:
                count = os.pwrite(self._descriptor, data, position)
                data, position = data[count:], position + count

    def _arrived(self, index: int, total: int) -> None:
        if index in self._work.here:
            return
        with self._writing:
            if self._halted.is_set():
                raise HaltedError
            self._journal.check_ours()
            self._journal.arrived(index, total % (1 << 64))
            if hasattr(os, "posix_fadvise"):  # the kernel begins to write it to the disk, so that the sync is short
                start, stop = self._work.segments.span(index)
                os.posix_fadvise(self._descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)
        self._work.arrived(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a file is fetched. connections: at once. stalled: seconds without a byte after which Xet is given up."""

    connections: int = 4
    stalled: float = 30.0
    on_bytes: Callable[[int], None] = lambda nbytes: None
    on_note: Callable[[str], None] = lambda text: None


class Transfer:
    """All missing segments of a part, fetched and digested. source: where from in the end; progress: as it went."""

    def __init__(
        self, sources: list[Source], descriptor: int, journal: Journal, algorithm: str, settings: Settings
    ) -> None:
        self._settings, self._descriptor, self._journal = settings, descriptor, journal
        self._work = Work(journal.segments, journal.checksums, settings.connections)
        self.progress = Progress()
        self._arrival = Arrival(descriptor, journal, self._work, algorithm, self.progress.lose)
        self._sources = sources
        self._connections: list[Connection] = []
        self._told = 0

    @property
    def source(self) -> Source:
        """Where the bytes come from now."""
        return self._sources[0]

    def run(self) -> str:
        """Fetch and digest; the digest found. Whatever ends it, no thread writes any more afterwards."""
        try:
            self._arrival.start()
            self._connect()
            while self._arrival.is_alive():
                self._arrival.join(_TICK)
                self._report()
                self._look_after()
            self._report()
            if self._arrival.failure is not None:
                raise self._arrival.failure
            return self._arrival.found or ""
        finally:
            self._arrival.halt()
            self._disconnect()
            until = time.monotonic() + _FAREWELL
            for thread in filter(Thread.is_alive, (self._arrival, *self._connections)):
                thread.join(max(until - time.monotonic(), 0.0))

    def _connect(self, sequential: bool = False) -> None:
        for _ in range(1 if sequential else self._settings.connections):
            connection = Connection(self.source, self._descriptor, self._journal, self._work, self.progress)
            connection.sequential = sequential
            self._connections.append(connection)
        self.progress.heard = time.monotonic()
        for connection in self._connections:
            connection.start()

    def _disconnect(self) -> None:
        for connection in self._connections:
            connection.halt()
        self._work.wake()

    def _report(self) -> None:
        nbytes, self._told = self.progress.fetched - self._told, self.progress.fetched
        if nbytes:
            self._settings.on_bytes(nbytes)

    def _look_after(self) -> None:
        """Go on from another source where this one has failed; raise what no other source can mend."""
        failures = [one.failure for one in self._connections if one.failure is not None]
        final = [failure for failure in failures if not isinstance(failure, (RangesIgnoredError, XetError))]
        if final:
            raise final[0]
        if len(self._sources) > 1 and (failures or self._is_silent()):
            why = str(failures[0]) if failures else f"no byte for {self._settings.stalled:.0f} seconds"
            self._settings.on_note(f"Xet does not bring the file ({why}); going on without it")
            self._sources = self._sources[1:]
            self._replace(sequential=False)
        elif failures:
            self._settings.on_note("the server sends whole files only; going on with one connection")
            self._replace(sequential=True)

    def _is_silent(self) -> bool:
        busy = not self._work.is_complete()
        return busy and time.monotonic() - self.progress.heard > self._settings.stalled

    def _replace(self, *, sequential: bool) -> None:
        """Other connections for what is missing. Those before may hang: what they had in hand is taken from them."""
        self._disconnect()
        self._connections = []
        self._work.recall()
        self._connect(sequential)
