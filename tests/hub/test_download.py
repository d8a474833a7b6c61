"""A download: what lies on disk afterwards, what the real client makes of it, and what is not fetched twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import IncompleteSnapshotError

from llama_convert.convert.digests import read_digests
from llama_convert.hub import HubError, checked, download
from llama_convert.hub.segments import SEGMENT
from llama_convert.verify.downloads import hub_statements
from tests.hub.downloads import (
    HF,
    NAME,
    ORIGINAL,
    SHARD,
    SHARDS,
    cache,
    client,
    contents,
    fetch,
    file_bytes,
    plan,
)  # fmt: skip
from tests.hub.fake_hub import FakeHub, Faults

pytestmark = pytest.mark.usefixtures("herd")


def test_the_client_finds_the_cache_complete(herd: FakeHub) -> None:
    done = fetch("original")
    assert done.fetched == sum(map(len, ORIGINAL.values()))
    assert done.checkpoint == cache() / "snapshots" / done.plan.snapshot.commit / "original"
    folder = client("original/*")
    assert contents(folder) == ORIGINAL
    assert all(path.is_symlink() and not path.readlink().is_absolute() for path in folder.rglob("*.*"))
    with pytest.raises(IncompleteSnapshotError):  # it knows what was left alone
        client()
    found = scan_cache_dir(constants.HF_HUB_CACHE)
    assert found.warnings == []
    assert {repo.repo_id: repo.size_on_disk for repo in found.repos} == {NAME: done.fetched}
    herd.clear()
    assert client("original/*", hub=herd) == folder
    assert file_bytes(herd) == 0


def test_what_the_client_fetched_is_not_fetched_again(herd: FakeHub) -> None:
    client(*HF, hub=herd)
    herd.clear()
    done = fetch("hf")
    assert (done.fetched, done.reused) == (0, sum(map(len, HF.values())))
    assert file_bytes(herd) == 0
    assert contents(done.checkpoint) == HF


@pytest.mark.parametrize("known", [True, False], ids=["", "without its record"])
def test_a_folder_of_the_client_is_adopted(herd: FakeHub, tmp_path: Path, known: bool) -> None:
    client(*HF, hub=herd, local_dir=tmp_path / "D")
    if not known:
        shutil.rmtree(tmp_path / "D" / ".cache")
    herd.clear()
    assert fetch("hf", to=tmp_path / "D").fetched == 0
    assert file_bytes(herd) == 0
    assert not (cache() / "blobs").exists()


def test_a_folder_of_ours_is_the_clients(herd: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "D"
    done = fetch("original", to=folder)
    assert done.checkpoint == folder / "original"
    assert contents(folder) == ORIGINAL
    statements = {str(said.path.relative_to(folder)): said.wanted for said in hub_statements(folder.rglob("*.*"))}
    assert statements == {entry.path: entry.digest for entry in done.plan.choice.entries}
    with pytest.raises(IncompleteSnapshotError):  # it knows what was left alone
        client(local_dir=folder, revision=done.plan.snapshot.commit)
    herd.clear()
    client("original/*", hub=herd, local_dir=folder)
    assert file_bytes(herd) == 0
    record = json.loads((folder / ".cache" / "llama-convert" / "download.json").read_text())
    sha256 = hashlib.sha256(ORIGINAL["original/consolidated.00.pth"]).hexdigest()
    assert (record["repository"], record["commit"]) == (NAME, done.plan.snapshot.commit)
    assert record["files"]["original/consolidated.00.pth"] == {"size": 40_000, "sha256": sha256}
    assert set(record["files"]["original/params.json"]) == {"size", "git_sha1"}
    fetch("config", to=folder)
    record = json.loads((folder / ".cache" / "llama-convert" / "download.json").read_text())
    assert set(record["files"]) == {*ORIGINAL, "config.json"}, "a second download of the commit adds to it"


def test_a_folder_takes_from_the_cache(herd: FakeHub, tmp_path: Path) -> None:
    """Weights as second names of the same bytes; what people edit as copies."""
    blob = fetch("hf").plan.files[0].target
    herd.clear()
    assert fetch("hf", to=tmp_path / "D").fetched == 0
    assert file_bytes(herd) == 0
    assert contents(tmp_path / "D") == HF
    assert sum(path.stat().st_nlink == 2 for path in (tmp_path / "D").iterdir() if path.is_file()) == len(SHARDS)
    assert blob.stat().st_nlink == 2
    with (tmp_path / "D" / "config.json").open("ab") as file:
        file.write(b"edited")
    assert contents(client(*HF)) == HF


def test_the_bytes_of_another_repository_are_taken(herd: FakeHub) -> None:
    herd.add("flock/fork", HF)
    fetch("hf", "flock/fork")
    herd.clear()
    assert fetch("hf").fetched == 0
    assert file_bytes(herd) == 0
    assert contents(client(*HF)) == HF


def test_the_same_bytes_twice_come_once(herd: FakeHub) -> None:
    herd.add(NAME, {"tokenizer.json": None, "model-00002-of-00002.safetensors": HF[SHARD]})
    found = plan("hf")
    done = download(found)
    assert done.fetched == found.to_fetch == sum(map(len, {*HF.values()} - {HF["tokenizer.json"]})) - 30_002


@pytest.mark.parametrize("shared", [False, True], ids=["blob", "link into a shared store"])
def test_a_damaged_file_of_the_client_is_fetched_again(herd: FakeHub, shared: bool) -> None:
    """The client takes a flipped byte for success; its blob is replaced, never written through."""
    herd.faults = Faults(flip=7, suffix=SHARD)
    client(*HF, hub=herd)
    herd.faults = Faults()
    blob = (client(*HF) / SHARD).resolve()
    store = cache().parent / "blobs" / "ab" / ("ab" * 32)
    if shared:
        store.parent.mkdir(parents=True)
        blob.rename(store)
        blob.symlink_to(Path("..", "..", *store.relative_to(cache().parent).parts))
    damaged = blob.read_bytes()
    assert damaged != HF[SHARD]
    herd.clear()
    done = fetch("hf")
    assert done.fetched == file_bytes(herd) == len(HF[SHARD])
    assert contents(done.checkpoint) == HF
    assert not shared or store.read_bytes() == damaged


def test_digests_are_read_once(herd: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client(*HF, hub=herd, local_dir=tmp_path / "D")
    read: list[str] = []

    def counted(path: Path, wanted: Any) -> Any:
        read.append(path.name)
        return read_digests(path, wanted)

    monkeypatch.setattr(checked, "read_digests", counted)
    fetch("hf", to=tmp_path / "D")
    assert sorted(read) == sorted(Path(path).name for path in HF)
    read.clear()
    fetch("hf", to=tmp_path / "D")
    assert read == []
    (tmp_path / "D" / "config.json").write_bytes(b'{"a": 7}\n')
    done = fetch("hf", to=tmp_path / "D")
    assert (set(read), done.fetched) == ({"config.json"}, len(HF["config.json"]))


def changed(herd: FakeHub) -> dict[str, bytes]:
    """A newer commit: one shard and the config are others."""
    files = {"config.json": b'{"a": 3}\n', SHARD: b"new" * 9_000}
    herd.add(NAME, files)
    return files


def test_an_update_of_a_folder_that_fails_keeps_good_files(herd: FakeHub, tmp_path: Path) -> None:
    fetch("hf", to=tmp_path)
    new = changed(herd)
    herd.faults = Faults(html=True, suffix=SHARD)
    with pytest.raises(HubError):
        fetch("hf", to=tmp_path)
    there = contents(tmp_path)
    assert there[SHARD] == HF[SHARD]
    assert all(there[path] in (HF[path], new.get(path)) for path in HF)
    herd.faults = Faults()
    fetch("hf", to=tmp_path)
    assert {path: contents(tmp_path)[path] for path in HF} == HF | new


def test_an_update_of_the_cache_that_fails_leaves_the_old_one_complete(herd: FakeHub) -> None:
    old = fetch("hf").checkpoint
    new = changed(herd)
    herd.faults = Faults(html=True, suffix=SHARD)
    with pytest.raises(HubError):
        fetch("hf")
    assert client(*HF) == old
    assert contents(old) == HF
    herd.faults = Faults()
    done = fetch("hf")
    assert done.fetched <= sum(map(len, new.values()))
    assert client(*HF) == done.checkpoint
    assert contents(done.checkpoint) == HF | new
    assert contents(old) == HF


def test_a_branch_never_loses_what_could_be_loaded(herd: FakeHub) -> None:
    """A newer commit of which other files are fetched: the branch moves only where nothing is lost by it."""
    notes: list[str] = []
    old = fetch("hf").checkpoint
    herd.add(NAME, {"README.md": b"changed"})
    done = download(plan("original"), on_note=notes.append)
    assert notes == []
    assert contents(client(*HF, *ORIGINAL)) == HF | ORIGINAL
    assert client(*HF) == done.plan.place.root != old
    changed(herd)
    newest = download(plan("original"), on_note=notes.append)
    assert client(*HF) == done.plan.place.root
    assert [newest.plan.snapshot.commit in note for note in notes] == [True]
    assert contents(client("original/*", revision=newest.plan.snapshot.commit) / "original") == contents(
        newest.checkpoint
    )


def test_the_commit_is_that_of_the_plan(herd: FakeHub) -> None:
    found = plan("hf")
    changed(herd)
    assert contents(download(found).checkpoint) == HF


def test_a_revision(herd: FakeHub) -> None:
    commit = plan().snapshot.commit
    new = changed(herd)
    assert contents(fetch("hf", f"{NAME}@{commit}").checkpoint) == HF
    assert not (cache() / "refs").exists(), "no branch was asked for"
    assert contents(fetch("hf", f"{NAME}@main").checkpoint) == HF | new


def test_a_renamed_repository(herd: FakeHub) -> None:
    herd.rename(NAME, "herd/alpaca")
    done = fetch("hf")
    assert (str(done.plan.snapshot.asked), done.plan.snapshot.repository) == (NAME, "herd/alpaca")
    assert Path(constants.HF_HUB_CACHE, "models--herd--alpaca") in done.checkpoint.parents


def test_xet_that_stalls_is_tried_once(herd: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once more for each of a hundred shards: every try is half a minute."""
    pytest.importorskip("hf_xet")
    herd.xet = "stalled"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    module = sys.modules["llama_convert.hub.download"]
    monkeypatch.setattr(module, "fetch", partial(module.fetch, stalled=0.5))
    notes: list[str] = []
    found = download(plan("hf"), on_note=notes.append)
    assert contents(found.checkpoint) == HF
    assert len([note for note in notes if "Xet" in note]) == 1


@pytest.mark.parametrize("to_folder", [False, True])
def test_an_interrupted_download_goes_on(herd: FakeHub, tmp_path: Path, to_folder: bool) -> None:
    """What came is in the next plan, also as room on the disk; it does not come again."""
    size, to = 7 * SEGMENT, tmp_path / "D" if to_folder else None
    herd.add(NAME, {"original/consolidated.00.pth": os.urandom(size)})
    herd.faults = Faults(slow=50e6)
    came = 0

    def until_enough(nbytes: int) -> None:
        nonlocal came
        came += nbytes
        if came > 5 * SEGMENT:  # a few connections are in the midst of one
            raise KeyboardInterrupt

    first = plan("original", to=to)
    with pytest.raises(KeyboardInterrupt):
        download(first, on_bytes=until_enough)
    assert not first.files[0].target.exists()
    found = plan("original", to=to)
    weights = found.files[0]
    assert 0 < weights.arrived < size
    assert found.to_fetch == first.to_fetch - weights.arrived
    assert found.disks[0].needed <= found.to_fetch
    herd.faults = Faults()
    assert download(found).fetched == found.to_fetch
    assert hashlib.sha256(weights.target.read_bytes()).hexdigest() == weights.entry.sha256
