"""A fetch that was killed, crashed or shared: what is fetched again, and that the result is exact."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from llama_convert.convert.errors import SpaceError, UsageError
from llama_convert.hub import journal as journals
from llama_convert.hub.fetch import arrived, partial_files
from llama_convert.hub.segments import Segments
from tests.hub.fake_hub import FakeHub, Faults
from tests.hub.fetching import CONNECTIONS, NAME, PATH, SEGMENT, brought, left, process, use

WEIGHTS = os.urandom(64 * SEGMENT + 777)


@pytest.fixture(autouse=True)
def repository(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, hub)
    hub.add(NAME, {PATH: WEIGHTS})


def interrupted(target: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A fetch that ends after about so many bytes, as with Ctrl-C."""

    def count(nbytes: int, so_far: list[int] = []) -> None:  # noqa: B006  # a counter
        so_far.append(nbytes)
        if sum(so_far) >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        brought(target, on_bytes=count)


def test_killed_at_ten_moments_a_segment_for_each_connection_is_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    target, rate = tmp_path / "weights", 800e3
    hub.faults = Faults(slow=rate)
    again = []
    for _ in range(10):
        before, sent = arrived(target), hub.sent_bytes()
        running = process(hub, target)
        while arrived(target) == before and running.poll() is None:
            time.sleep(0.002)
        time.sleep(random.uniform(0.0, 0.05))
        running.kill()
        running.communicate()
        # What was sent is here or was in hand, but for what lay in the sockets: one piece of the throttled server's.
        again.append(hub.sent_bytes() - sent - (arrived(target) - before))
        assert again[-1] < CONNECTIONS * (SEGMENT + rate / 20)
        assert not target.exists()
        time.sleep(0.2)  # the server notices only when it sends the next piece
    assert sum(again) < len(again) * CONNECTIONS * SEGMENT
    hub.faults = Faults()
    kept, sent = arrived(target), hub.sent_bytes()
    assert 0 < kept < len(WEIGHTS)
    assert brought(target).reused == kept
    assert target.read_bytes() == WEIGHTS
    assert hub.sent_bytes() - sent == len(WEIGHTS) - kept
    assert left(target) == ["weights"]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_two_seconds(kind: signal.Signals, hub: FakeHub, tmp_path: Path) -> None:
    target = tmp_path / "weights"
    hub.faults = Faults(stall=60.0, stall_after=SEGMENT + 10)
    running = process(hub, target)
    while arrived(target) < CONNECTIONS * SEGMENT and running.poll() is None:
        time.sleep(0.01)
    began = time.monotonic()
    running.send_signal(kind)
    running.wait(timeout=10)
    assert time.monotonic() - began < 2.0
    hub.faults = Faults()
    assert brought(target).reused == CONNECTIONS * SEGMENT
    assert target.read_bytes() == WEIGHTS


def test_what_a_crashed_machine_lost_is_fetched_again(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "weights"
    interrupted(target, monkeypatch, 2_000_000)
    kept = arrived(target)
    part = journals.names(target).part
    indices = sorted(random.sample(range(kept // SEGMENT // 2), 3))
    with part.open("r+b") as file:
        for index in indices:  # a page that never reached the disk reads as zeros
            file.seek(index * SEGMENT + 4096)
            file.write(bytes(4096))
    hub.clear()
    found = brought(target)
    assert target.read_bytes() == WEIGHTS
    assert found.reused == kept - 3 * SEGMENT == len(WEIGHTS) - hub.sent_bytes()


@pytest.mark.parametrize("torn", [b"segment 3 ab", b"segment 9 1 00000000\n", b"\0" * 100])
def test_a_torn_journal_counts_up_to_the_tear(torn: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "weights"
    interrupted(target, monkeypatch, 2_000_000)
    kept = arrived(target)
    with journals.names(target).journal.open("ab") as file:
        file.write(torn)
    assert arrived(target) == kept > 0
    assert brought(target).reused == kept
    assert target.read_bytes() == WEIGHTS


def test_what_is_left_of_another_file_is_not_used(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "weights"
    interrupted(target, monkeypatch, 2_000_000)
    other = os.urandom(len(WEIGHTS))
    hub.add(NAME, {PATH: other})
    hub.clear()
    assert brought(target).reused == 0
    assert target.read_bytes() == other
    assert hub.sent_bytes() == len(other)


@pytest.mark.parametrize("gone", ["part", "journal"])
def test_one_of_the_two_files_alone_is_no_trap(gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "weights"
    interrupted(target, monkeypatch, 2_000_000)
    getattr(journals.names(target), gone).unlink()
    assert arrived(target) == 0
    assert brought(target).reused == 0
    assert target.read_bytes() == WEIGHTS
    assert left(target) == ["weights"]


def test_two_processes_fetch_it_once(hub: FakeHub, tmp_path: Path) -> None:
    target = tmp_path / "weights"
    hub.faults = Faults(slow=2e6)
    running = [process(hub, target) for _ in range(2)]
    said = [one.communicate(timeout=30)[0] for one in running]
    assert [one.returncode for one in running] == [0, 0]
    assert target.read_bytes() == WEIGHTS
    assert hub.sent_bytes() == len(WEIGHTS)
    assert sum("waiting" in text for text in said) == 1
    assert sum(f"reused {len(WEIGHTS)}" in text for text in said) == 1
    assert left(target) == ["weights"]


def test_without_locks_each_has_files_of_its_own(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda descriptor, operation: None)  # as on some network file systems
    target, notes = tmp_path / "weights", list[str]()
    hub.faults = Faults(slow=3e6)
    threads = [Thread(target=brought, args=(target,), kwargs={"on_note": notes.append}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == WEIGHTS
    assert left(target) == ["weights"]
    assert len(notes) == 2
    assert all("no working locks" in note for note in notes)


def test_a_run_that_was_overtaken_in_spite_of_its_lock_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_lock", lambda descriptor: True)
    monkeypatch.setattr(journals, "_holds", lambda path: True)  # as locks that hold on each machine alone
    segments = Segments(size=len(WEIGHTS), nbytes=SEGMENT)
    with journals.opened(tmp_path / "weights", "d" * 64, segments, print) as first:
        first.check_ours()
        with journals.opened(tmp_path / "weights", "d" * 64, segments, print) as second:
            first.arrived(0, 1)
            with pytest.raises(UsageError, match="another process"):
                first.check_ours()
            second.check_ours()


def test_the_cache_shows_and_clears_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import scan_cache_dir

    folder = tmp_path / "models--herd--llama"
    (folder / "snapshots").mkdir(parents=True)
    target = folder / "blobs" / "weights"
    interrupted(target, monkeypatch, 2_000_000)
    found = scan_cache_dir(tmp_path)
    assert {file.file_path for file in found.incomplete_files} == set(partial_files(target))
    assert len(partial_files(target)) == 2
    assert not found.warnings


def test_a_full_disk_keeps_what_came(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, real, room = tmp_path / "weights", os.pwrite, Event()

    def full(descriptor: int, data: bytes, position: int) -> int:
        if position >= 20 * SEGMENT and not room.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(SpaceError, match="disk is full"):
        brought(target)
    kept = arrived(target)
    assert 0 < kept <= 20 * SEGMENT
    room.set()
    assert brought(target).reused == kept
    assert target.read_bytes() == WEIGHTS


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="mounts a small file system")
def test_a_disk_too_small_shows_before_the_first_byte(hub: FakeHub, tmp_path: Path) -> None:
    if os.system(f"mount -t tmpfs -o size=2m tmpfs {tmp_path} 2>/dev/null"):
        pytest.skip("may not mount")
    try:
        with pytest.raises(SpaceError, match="disk is full"):
            brought(tmp_path / "weights")
        assert left(tmp_path / "weights") == []
        assert hub.sent_bytes() == 0
    finally:
        os.system(f"umount {tmp_path}")


def test_parts_removed_meanwhile_are_told(hub: FakeHub, tmp_path: Path) -> None:
    target = tmp_path / "weights"

    def prune(nbytes: int) -> None:
        for path in partial_files(target):
            path.unlink()

    with pytest.raises(UsageError, match="removed"):
        brought(target, on_bytes=prune)
    brought(target)
    assert target.read_bytes() == WEIGHTS
