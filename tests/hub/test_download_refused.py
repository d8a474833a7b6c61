"""Downloads that cannot be: offline, without room, without access, with names that lead elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, hf_hub_download

from llama_convert.convert.errors import CheckpointError, SpaceError, UsageError
from llama_convert.hub import HubError, download
from tests.hub.downloads import (
    HF,
    NAME,
    ORIGINAL,
    PARAMS,
    SHARD,
    cache,
    client,
    contents,
    everything,
    fetch,
    plan,
)  # fmt: skip
from tests.hub.fake_hub import Account, FakeHub

pytestmark = pytest.mark.usefixtures("herd")


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_offline_from_the_cache_alone(herd: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("original")
    hf_hub_download(NAME, "config.json", endpoint=herd.url)
    herd.clear()
    offline(monkeypatch)
    assert contents(fetch("original").checkpoint.parent) == ORIGINAL | {"config.json": HF["config.json"]}
    with pytest.raises(HubError, match="missing from the cache, or damaged there: 4 files of 6") as found:
        fetch("hf")
    assert set(found.value.problems) == {*HF} - {*PARAMS, "config.json"}
    with pytest.raises(HubError, match="offline mode is on, and the cache does not hold it"):
        fetch(name="herd/other")
    assert herd.requests == []


def test_offline_without_a_listing(herd: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were fetched one by one, as from_pretrained does it."""
    for path in ("config.json", "tokenizer.json"):
        hf_hub_download(NAME, path, endpoint=herd.url)
    with monkeypatch.context() as patch:
        offline(patch)
        with pytest.raises(HubError, match="no hf or original or gguf in its 2 files that are in the cache") as found:
            fetch()
        assert found.value.problems
    for path in HF:
        hf_hub_download(NAME, path, endpoint=herd.url)
    herd.clear()
    offline(monkeypatch)
    assert contents(fetch().checkpoint) == HF
    assert herd.requests == []


def test_a_damaged_file_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = next(file.target for file in fetch("hf").plan.files if file.entry.path == SHARD)
    blob.write_bytes(b"x" * blob.stat().st_size)
    offline(monkeypatch)
    with pytest.raises(HubError, match="missing from the cache, or damaged there: 1 file of 6"):
        fetch("hf")


@pytest.mark.parametrize("to_folder", [False, True])
def test_a_disk_that_is_too_small(
    herd: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, to_folder: bool
) -> None:
    size = sum(map(len, HF.values()))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=10**9, used=0, free=size - 1))
    found = plan("hf", to=tmp_path / "D" if to_folder else None)
    assert [(disk.needed, disk.suffices) for disk in found.disks] == [(size, False)]
    herd.clear()
    with pytest.raises(SpaceError, match="GB are needed"):
        download(found)
    assert herd.requests == []
    assert not cache().exists()
    assert not (tmp_path / "D").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=10**9, used=0, free=size))
    assert download(plan("hf")).fetched == size


def test_what_comes_after_needs_its_room_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    size = sum(map(len, HF.values()))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=10**9, used=0, free=size + 99))
    with pytest.raises(SpaceError):
        download(plan("hf", needs=lambda choice: {tmp_path / "output": 100}))
    assert download(plan("hf", needs=lambda choice: {tmp_path / "output": 99})).fetched == size


def test_two_file_systems(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    disks = plan("hf", to=tmp_path, needs=lambda choice: {other / "output": 5}).disks
    assert [(disk.place, disk.needed) for disk in disks] == [(tmp_path, sum(map(len, HF.values()))), (other, 5)]


@pytest.mark.parametrize("folder", ["..", "/etc", "a/../..", "..\\..", "C:", "a//b"])
def test_names_that_lead_out(herd: FakeHub, tmp_path: Path, folder: str) -> None:
    herd.add("herd/evil", {f"{folder}/config.json": b"{}", f"{folder}/model.safetensors": b"x" * 2000})
    for to in (None, tmp_path / "D"):
        with pytest.raises(CheckpointError, match="names of files that lead out of the folder"):
            fetch(name="herd/evil", to=to)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "D").write_text("mine")
    with pytest.raises(UsageError, match="exists and is no folder"):
        fetch(to=tmp_path / "D" / "inner")


def test_a_gate_is_told_by_the_plan(herd: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are told to anyone; nothing is asked of the gate once everything is here."""
    herd.add(NAME, {}, gated="manual")
    found = plan("hf")
    assert found.to_fetch == sum(map(len, HF.values()))
    assert found.refusal is not None
    with pytest.raises(HubError, match="gated, and there is no token"):
        download(found)
    assert not cache().exists()
    herd.tokens["hf_good"] = Account(name="reader", may_read={NAME})
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert plan("hf").refusal is None
    fetch("hf")
    monkeypatch.delenv("HF_TOKEN")
    assert fetch("hf").fetched == 0


def test_a_plan_writes_nothing(herd: FakeHub, tmp_path: Path) -> None:
    client("config.json", hub=herd)
    before = everything(tmp_path), everything(cache().parent)
    plan("hf")
    plan("hf", to=tmp_path / "D")
    assert (everything(tmp_path), everything(cache().parent)) == before
