"""A file over Xet from a local storage, and without it where it does not come."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest

from llama_convert.hub.fetch import arrived, fetch
from tests.hub.fake_hub import FakeHub
from tests.hub.fetching import NAME, PATH, SEGMENT, brought, left, process, remote, use

pytest.importorskip("hf_xet")

WEIGHTS = os.urandom(40 * SEGMENT + 1234)


@pytest.fixture(autouse=True)
def repository(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    hub.add(NAME, {PATH: WEIGHTS})
    hub.xet = True


def test_a_file_comes_over_xet(hub: FakeHub, tmp_path: Path) -> None:
    found = brought(tmp_path / "weights")
    assert found.over_xet
    assert (tmp_path / "weights").read_bytes() == WEIGHTS
    assert hub.sent_bytes() == 0
    assert left(tmp_path / "weights") == ["weights"]


@pytest.mark.parametrize("how", ["argument", "environment", "no library"])
def test_xet_can_be_declined(how: str, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = remote()  # the server needs the library
    if how == "environment":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    if how == "no library":
        monkeypatch.setitem(sys.modules, "hf_xet", None)
    notes: list[str] = []
    found = fetch(file, tmp_path / "weights", xet=how != "argument", on_note=notes.append)
    assert not found.over_xet
    assert (tmp_path / "weights").read_bytes() == WEIGHTS
    assert hub.sent_bytes() == len(WEIGHTS)
    assert notes == []


def test_what_came_over_xet_is_resumed_without_it(hub: FakeHub, tmp_path: Path) -> None:
    target = tmp_path / "weights"

    def stop(nbytes: int) -> None:
        if arrived(target):
            raise KeyboardInterrupt

    for _ in range(50):  # all of it may be here before it is told of the first bytes
        try:
            brought(target, on_bytes=stop)
        except KeyboardInterrupt:
            break
        target.unlink()
    kept = arrived(target)
    assert hub.sent_bytes() == 0 < kept
    assert brought(target, xet=False).reused == kept
    assert target.read_bytes() == WEIGHTS
    assert hub.sent_bytes() == len(WEIGHTS) - kept


def test_a_storage_that_never_answers_is_given_up(hub: FakeHub, tmp_path: Path) -> None:
    hub.xet = "stalled"
    notes: list[str] = []
    began = time.monotonic()
    found = brought(tmp_path / "weights", stalled=1.0, on_note=notes.append)
    assert time.monotonic() - began < 5.0
    assert not found.over_xet
    assert (tmp_path / "weights").read_bytes() == WEIGHTS
    assert notes == ["Xet does not bring the file (no byte for 1 seconds); going on without it"]


def test_a_storage_that_fails_is_given_up(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote()  # makes the server put it into its storage
    monkeypatch.setattr(FakeHub, "cas_url", f"local://{tmp_path}/nothing")
    notes: list[str] = []
    found = brought(tmp_path / "weights", on_note=notes.append)
    assert not found.over_xet
    assert (tmp_path / "weights").read_bytes() == WEIGHTS
    assert len(notes) == 1
    assert "Xet does not bring the file" in notes[0]


def test_a_process_whose_xet_hangs_goes_on_and_ends(hub: FakeHub, tmp_path: Path) -> None:
    hub.xet = "stalled"
    running = process(hub, tmp_path / "weights")
    assert "going on without it" in running.communicate(timeout=20)[0]
    assert running.returncode == 0
    assert (tmp_path / "weights").read_bytes() == WEIGHTS


def test_a_process_whose_xet_hangs_can_be_interrupted(hub: FakeHub, tmp_path: Path) -> None:
    hub.xet = "stalled"
    running = process(hub, tmp_path / "weights")
    assert running.stdout
    assert running.stdout.readline() == "begins\n"
    time.sleep(0.3)
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    assert "going on" not in running.communicate(timeout=20)[0]
    assert time.monotonic() - began < 3.0
    assert left(tmp_path / "weights") == []


def test_damage_in_the_storage_is_found_and_mended_by_plain_ranges(hub: FakeHub, tmp_path: Path) -> None:
    brought(tmp_path / "other")  # the storage has it now
    damaged = 0
    for path in (hub.folder / "cas").rglob("*"):
        if path.is_file() and path.stat().st_size > len(WEIGHTS):
            content = bytearray(path.read_bytes())
            content[1_000_000] ^= 1
            path.write_bytes(content)
            damaged += 1
    assert damaged == 1
    found = brought(tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == WEIGHTS
    assert found.refetched or not found.over_xet
    assert hub.sent_bytes() > 0
