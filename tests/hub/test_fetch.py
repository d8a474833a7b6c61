"""A file fetched from a real server, and what goes wrong on the way."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from llama_convert.convert.errors import CheckpointError
from llama_convert.hub.errors import HubError
from llama_convert.hub.fetch import arrived, fetch, partial_files
from llama_convert.hub.segments import Segments
from tests.hub.fake_hub import Account, FakeHub, Faults
from tests.hub.fake_hub.contents import Blob
from tests.hub.fetching import NAME, PATH, SEGMENT, brought, left, remote, use

WEIGHTS = os.urandom(40 * SEGMENT + 1234)


@pytest.fixture(autouse=True)
def repository(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, hub)
    hub.add(NAME, {PATH: WEIGHTS, "config.json": b"{}\n", "empty.txt": b""})


def test_a_file_arrives_whole_and_nothing_else_stays(hub: FakeHub, tmp_path: Path) -> None:
    told: list[int] = []
    target = tmp_path / "blobs" / "weights"
    found = brought(target, on_bytes=told.append)
    assert target.read_bytes() == WEIGHTS
    assert (found.path, found.nbytes, found.reused, found.refetched) == (target, len(WEIGHTS), 0, False)
    assert sum(told) == len(WEIGHTS) == hub.sent_bytes()
    assert left(target) == ["weights"]
    assert {request.host for request in hub.requests if request.range} == {"cdn"}


@pytest.mark.parametrize("path", ["config.json", "empty.txt"])
def test_small_files_are_held_against_git(path: str, tmp_path: Path) -> None:
    file = remote(path)
    assert file.entry.sha256 is None
    fetch(file, tmp_path / "small")
    content = (tmp_path / "small").read_bytes()
    assert hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest() == file.entry.git_sha1
    assert left(tmp_path / "small") == ["small"]


def test_what_is_here_is_not_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    target = tmp_path / "weights"
    target.write_bytes(WEIGHTS)
    hub.clear()
    assert brought(target).reused == len(WEIGHTS)
    assert hub.sent_bytes() == 0
    target.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))  # right size, wrong bytes
    assert brought(target).reused == 0
    assert target.read_bytes() == WEIGHTS


def test_a_link_into_a_shared_store_is_replaced_not_written_through(tmp_path: Path) -> None:
    shared, target = tmp_path / "shared", tmp_path / "weights"
    shared.write_bytes(b"another file's bytes")
    target.symlink_to(shared)
    brought(target)
    assert target.read_bytes() == WEIGHTS
    assert not target.is_symlink()
    assert shared.read_bytes() == b"another file's bytes"


@pytest.mark.parametrize(
    "fault",
    [
        Faults(cut_after=100_000, first=3),
        Faults(cut_after=5000),  # every connection dies
        Faults(status=503, first=4),
        Faults(status=429, retry_after=1, first=1),
        Faults(dead_signatures=1),
        Faults(expired=0.3, slow=4e6),
        Faults(length_error=100),
        Faults(ignore_range=True),
        Faults(ignore_range=True, cut_after=2_000_000, first=1),
        Faults(flip=1_000_000, first=20),
    ],
    ids=lambda fault: str(fault)[7:60],
)
def test_faults_survived(fault: Faults, hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = fault
    brought(tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == WEIGHTS
    assert left(tmp_path / "weights") == ["weights"]


def test_progress_is_kept_when_every_connection_dies(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = Faults(cut_after=5000)
    brought(tmp_path / "weights")
    assert hub.sent_bytes() < 1.01 * len(WEIGHTS)


def test_a_stalled_connection_is_left_for_another(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_convert.hub.remote._SECONDS", 1.0)
    hub.faults = Faults(stall=60.0, stall_after=10_000, first=2)
    began = time.monotonic()
    brought(tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == WEIGHTS
    assert time.monotonic() - began < 5.0


def test_a_server_without_ranges_sends_the_file_about_once(hub: FakeHub, tmp_path: Path) -> None:
    notes: list[str] = []
    hub.faults = Faults(ignore_range=True, slow=4e6)
    brought(tmp_path / "weights", on_note=notes.append)
    assert hub.sent_bytes() < 2 * len(WEIGHTS)
    assert any("one connection" in note for note in notes)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Faults(html=True), "text/html"),
        (Faults(status=404), "404"),
        (Faults(status=503), "503"),
        (Faults(cut_after=0), "no byte"),
        (Faults(dead_signatures=99), "refuses"),
    ],
)
def test_faults_told(fault: Faults, words: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = fault
    with pytest.raises(HubError, match=words) as caught:
        brought(tmp_path / "weights")
    assert left(tmp_path / "weights") == []
    assert "Signature" not in str(caught.value)
    assert hub.cdn_url not in str(caught.value)
    hub.faults = Faults()
    assert brought(tmp_path / "weights").nbytes == len(WEIGHTS)


def test_what_came_before_a_failure_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    target = tmp_path / "weights"
    hub.faults = Faults(slow=3e6, cut_after=3 * SEGMENT + 5, first=4), Faults(status=404)
    with pytest.raises(HubError):
        brought(target)
    hub.faults = Faults()
    kept = arrived(target)
    assert kept == arrived(target, hashlib.sha256(WEIGHTS).hexdigest())
    assert arrived(target, "0" * 64) == 0
    assert sum(path.stat().st_size for path in partial_files(target)) < len(WEIGHTS)
    assert brought(target).reused == kept


def test_a_file_that_is_wrong_at_the_store_never_appears(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults = Faults(flip=2_000_000)
    with pytest.raises(CheckpointError) as caught:
        brought(tmp_path / "weights")
    found = bytearray(WEIGHTS)
    found[2_000_000] ^= 0xFF
    for words in (PATH, hashlib.sha256(WEIGHTS).hexdigest(), hashlib.sha256(found).hexdigest()):
        assert words in caught.value.summary
    assert "same bytes" in caught.value.advice
    assert left(tmp_path / "weights") == []
    assert 2 * len(WEIGHTS) <= hub.sent_bytes() < 2.01 * len(WEIGHTS)


def test_parts_that_came_twice_alike_are_kept_when_others_did_not(hub: FakeHub, tmp_path: Path) -> None:
    target = tmp_path / "weights"

    def worse(text: str) -> None:
        hub.faults = Faults(flip=1_000_000)

    hub.faults = Faults(flip=2_000_000)
    with pytest.raises(CheckpointError) as caught:
        brought(target, on_note=worse)
    assert "2 of 41 parts" in caught.value.advice
    hub.faults = Faults()
    hub.clear()
    found = brought(target)
    assert target.read_bytes() == WEIGHTS
    assert hub.sent_bytes() == 2 * SEGMENT == len(WEIGHTS) - found.reused


def test_the_token_never_reaches_the_store(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.tokens["hf_secret"] = Account(name="someone")
    brought(tmp_path / "weights")
    carrying = {request.host for request in hub.requests if "hf_secret" in str(request.headers)}
    assert carrying == {"hub"}


def test_a_file_over_the_clients_50_gb(hub: FakeHub, tmp_path: Path) -> None:
    size, offset, sparse = 60_903_742_309, 60_000_000_001, tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
        file.seek(offset)
        file.write(b"far out")
    blob = Blob(sparse, size, "ab" * 32)
    hub.keep(blob)
    hub.repositories[NAME].at("main").files[PATH] = blob  # type: ignore[union-attr]
    assert remote().read(offset - 1, 9) == b"\0far out\0"
    assert remote().read(size - 3, 100) == bytes(3)
    segments = Segments(size=size, nbytes=8 << 20)
    assert segments.length(range(len(segments))) == size
    assert all(segments.span(index)[1] == segments.span(index + 1)[0] for index in range(len(segments) - 1))
