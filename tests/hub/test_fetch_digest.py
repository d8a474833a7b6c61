"""A flipped bit is found wherever it is: on the way, at rest, and by the checksum that says where."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Generator
from pathlib import Path
from threading import Event

import pytest

from llama_convert.convert.digests import SHA256
from llama_convert.convert.errors import CheckpointError
from llama_convert.hub.arrival import Arrival
from llama_convert.hub.fetch import fetch
from llama_convert.hub.journal import Journal, opened
from llama_convert.hub.segments import Segments, Work, checksum
from llama_convert.hub.transfer import Connection, Progress
from tests.hub.fake_hub import FakeHub, Faults
from tests.hub.fetching import NAME, PATH, SEGMENT, left, remote, use

SIZE = 40_003
SEGMENTS = Segments(size=SIZE, nbytes=4096)


def sums(data: bytes) -> dict[int, int]:
    """Each segment's checksum."""
    spans = map(SEGMENTS.span, range(len(SEGMENTS)))
    return {index: checksum(memoryview(data)[start:stop], start) for index, (start, stop) in enumerate(spans)}


def digest(journal: Journal, descriptor: int) -> tuple[str | None, set[int]]:
    """What is found of a part, and which segments were found to be lost; nobody fetches them again."""
    work = Work(SEGMENTS, journal.checksums, 1)
    arrival = Arrival(descriptor, journal, work, SHA256, lambda nbytes: arrival.halt())
    arrival.run()
    return arrival.found, set(range(len(SEGMENTS))) - work.here


def test_a_thousand_flipped_bytes_are_all_found(tmp_path: Path) -> None:
    good = os.urandom(SIZE)
    wanted = hashlib.sha256(good).hexdigest()
    with opened(tmp_path / "weights", "d" * 64, SEGMENTS, print) as journal, journal.names.part.open("w+b", 0) as part:
        part.write(good)
        journal.checksums = sums(good)
        assert digest(journal, part.fileno()) == (wanted, set())
        for offset in random.sample(range(SIZE), 1000):
            flipped = bytes([good[offset] ^ random.randrange(1, 256)])
            os.pwrite(part.fileno(), flipped, offset)
            # At rest: the checksum tells where.
            journal.checksums = sums(good)
            assert digest(journal, part.fileno()) == (None, {offset // SEGMENTS.nbytes})
            # On the way: the checksums are of what came, and only the digest can tell.
            journal.checksums = sums(good[:offset] + flipped + good[offset + 1 :])
            found, lost = digest(journal, part.fileno())
            assert found not in (None, wanted)
            assert lost == set()
            os.pwrite(part.fileno(), good[offset : offset + 1], offset)


@pytest.mark.parametrize("width", [1, 7, 8, 1000])
def test_checksums_of_pieces_add_up(width: int) -> None:
    data = memoryview(os.urandom(SIZE))
    for start in (0, 3, 8):
        pieces = sum(checksum(data[at : at + width][: SIZE - at], at) for at in range(start, SIZE, width))
        assert pieces % (1 << 64) == checksum(data[start:], start)
    assert checksum(data, 0) != checksum(data, 1)


def test_flips_on_the_wire_are_all_found(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, hub)
    good = os.urandom(3 * SEGMENT + 5)
    hub.add(NAME, {PATH: good})
    file = remote()
    for offset in (0, len(good) - 1, *random.sample(range(len(good)), 10)):
        hub.faults = Faults(flip=offset)
        with pytest.raises(CheckpointError):
            fetch(file, tmp_path / "weights")
        assert left(tmp_path / "weights") == []
    hub.faults = Faults()
    fetch(file, tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == good


def test_a_connection_that_hung_writes_nothing_when_it_wakes(tmp_path: Path) -> None:
    asleep, wake = Event(), Event()

    class Hanging:
        def pieces(
            self, start: int, stop: int, *, halted: Event, ranges_only: bool
        ) -> Generator[memoryview, None, None]:
            asleep.set()
            wake.wait()  # as a library that knows nothing of `halted`
            yield memoryview(b"x" * (stop - start))

    with opened(tmp_path / "weights", "d" * 64, SEGMENTS, print) as journal, journal.names.part.open("w+b", 0) as part:
        work = Work(SEGMENTS, (), 1)
        connection = Connection(Hanging(), part.fileno(), journal, work, Progress())
        connection.start()
        asleep.wait()
        connection.halt()
        wake.set()
        connection.join()
        assert connection.failure is None
        assert not work.here
        assert part.read() == b""
