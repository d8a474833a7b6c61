"""`list` and `du`: what is shown of a cache, of made folders, and of what is broken among them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from llama_convert.convert import Origin, convert_checkpoint, plan_conversion
from tests.checkpoints import CASES
from tests.cli.cached import blocks, commit_of, files_of, put
from tests.cli.commands import Result, change_json
from tests.hub.fake_hub import FakeHub

Run = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("cache")
ORIGIN = Origin(repository="herd/llama", commit=commit_of("herd"))


@pytest.fixture
def meta(meta_checkpoint: Callable[..., Path]) -> Path:
    """Case 3-2shards, read only."""
    return meta_checkpoint(next(case for case in CASES if case.name == "3-2shards"))


def entries(run: Run, *arguments: object) -> dict[str, Any]:
    result = run("list", *arguments, "--json")
    assert result.status == 0, result.err
    return {entry["name"]: entry for entry in result.json["entries"]}


def test_a_made_folder_is_shown_as_inspect_shows_it(run: Run, converted: Path) -> None:
    shutil.copytree(converted, "models/herd/made")
    found = entries(run)["models/herd/made"]
    inspected = run("inspect", "models/herd/made", "--json").json
    (checkpoint,) = found["checkpoints"]
    for name in ("format", "llama_version", "parameters", "dtype"):
        assert checkpoint[name] == inspected[name], name
    assert found["nbytes"] == blocks(Path("models/herd/made"))
    assert found["source"]["folder"] == "3-2shards"
    assert (found["verified"], found["state"], checkpoint["state"]) == (None, "", "")


def test_quantised_weights_are_shown_as_such(run: Run, meta: Path) -> None:
    assert run("convert", meta, "small", "--to", "gguf", "--quantize", "q8_0").status == 0
    (checkpoint,) = entries(run)["small"]["checkpoints"]
    assert (checkpoint["format"], checkpoint["dtype"]) == ("gguf", "q8_0")


def test_an_older_certificate_says_less_and_the_list_shows_the_same(run: Run, converted: Path) -> None:
    shutil.copytree(converted, "made")
    before = entries(run)["made"]["checkpoints"]
    values = json.loads(Path("made/conversion.json").read_text())
    for name in ("parameters", "dtype", "llama_version"):
        del values["target"][name]
    Path("made/conversion.json").write_text(json.dumps(values))
    assert entries(run)["made"]["checkpoints"] == before


def test_a_verdict_is_shown(run: Run, converted: Path, meta: Path) -> None:
    shutil.copytree(converted, "made")
    verdict = {"date": "2026-11-21T10:00:00+00:00", "ok": True, "levels": []}
    change_json(Path("made/conversion.json"), verified=verdict)
    assert entries(run)["made"]["verified"] == {"ok": True, "date": verdict["date"]}
    assert "2026-11-21" in run("list").out
    change_json(Path("made/conversion.json"), verified=verdict | {"ok": False})
    assert "FAILED" in run("list").out


def test_the_origin_is_kept_from_conversion_to_conversion(run: Run, meta: Path) -> None:
    convert_checkpoint(plan_conversion(meta, to="scratch"), Path("first"), origin=ORIGIN)
    assert run("convert", "first", "second", "--to", "hf").status == 0
    assert run("pad", "second", "--in-place").status == 0
    assert run("convert", meta, "unknown").status == 0
    found = entries(run)
    for name in ("first", "second"):
        source = found[name]["source"]
        assert (source["repository"], source["commit"]) == (ORIGIN.repository, ORIGIN.commit), name
    assert found["unknown"]["source"]["repository"] is None
    assert f"{ORIGIN.repository}@{ORIGIN.commit[:8]}" in run("list").out


def test_the_origin_is_told_by_where_the_source_lies(run: Run, cache: Path, meta: Path) -> None:
    originals = {f"original/{name}": path for name, path in files_of(meta).items()}
    sources = {
        "from-cache": put(cache, ORIGIN.repository, originals, commit=ORIGIN.commit) / "original",
        "from-download": downloaded(Path("fetched"), originals) / "original",
        "from-beside-it": Path(shutil.copytree(meta, "fetched/mine")),  # no record names its files
    }
    for name, source in sources.items():
        assert run("convert", source, name, "--to", "mlx").status == 0
    found = {name: entry["source"]["commit"] for name, entry in entries(run).items() if name in sources}
    assert found == {"from-cache": ORIGIN.commit, "from-download": ORIGIN.commit, "from-beside-it": None}


def downloaded(folder: Path, files: dict[str, Path]) -> Path:
    """A folder as a download into it leaves it."""
    record = {"repository": ORIGIN.repository, "commit": ORIGIN.commit, "date": "2026-11-21", "files": {}}
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / name)
        record["files"][name] = {"size": path.stat().st_size, "sha256": "0" * 64}  # type: ignore[index]
    (folder / ".cache/llama-convert").mkdir(parents=True)
    (folder / ".cache/llama-convert/download.json").write_text(json.dumps(record))
    return folder


def test_a_download_into_a_folder_is_on_the_shelf(run: Run, meta: Path) -> None:
    folder = downloaded(Path("fetched"), {f"original/{name}": path for name, path in files_of(meta).items()})
    found = entries(run)["fetched"]
    (checkpoint,) = found["checkpoints"]
    assert (checkpoint["place"], checkpoint["format"], checkpoint["llama_version"]) == ("original", "meta", "3")
    assert (found["source"]["repository"], found["source"]["commit"]) == (ORIGIN.repository, ORIGIN.commit)
    (folder / "original/consolidated.01.pth").unlink()
    (checkpoint,) = entries(run)["fetched"]["checkpoints"]
    assert checkpoint["state"] == "incomplete: 1 file missing"


def test_a_repository_may_hold_several_formats(run: Run, cache: Path, converted: Path, meta: Path) -> None:
    originals = {f"original/{name}": path for name, path in files_of(meta).items()}
    put(cache, "herd/llama", {**files_of(converted), **originals}, commit=ORIGIN.commit)
    found = entries(run)["herd/llama"]
    formats = {entry["place"]: (entry["format"], entry["llama_version"]) for entry in found["checkpoints"]}
    assert formats == {"": ("hf", "3"), "original": ("meta", "3")}
    assert found["source"] | {"folder": None} == {
        "repository": "herd/llama",
        "commit": ORIGIN.commit,
        "refs": ["main"],
        "folder": None,
    }
    assert [line.split()[0] for line in run("list").out.splitlines()] == ["name", "herd/llama", "original"]


def test_revisions_have_names_of_their_own_and_their_common_files_count_once(
    run: Run, cache: Path, converted: Path
) -> None:
    files = files_of(converted)
    put(cache, "herd/llama", files, commit="a" * 40)
    put(cache, "herd/llama", {**files, "README.md": b"# new\n"}, commit="b" * 40, ref=None)
    assert set(entries(run)) == {"herd/llama@aaaaaaaa", "herd/llama@bbbbbbbb"}
    du = run("du", "--json").json
    assert {entry["shared"] for entry in du["entries"]} == {blocks(converted)}
    assert sum(disk["nbytes"] for disk in du["disks"]) == blocks(cache / "models--herd--llama/blobs")


def test_a_blob_of_the_store_and_hard_links_count_once(run: Run, cache: Path, converted: Path) -> None:
    for name in ("herd/llama", "flock/llama"):
        put(cache, name, files_of(converted), shared=True)
    shutil.copytree(converted, "made")
    shutil.copytree("made", "linked", copy_function=os.link)
    du = run("du", "--json").json
    by_name = {entry["name"]: entry for entry in du["entries"]}
    assert set(by_name) == {"herd/llama", "flock/llama", "made", "linked"}
    assert all(entry["nbytes"] == entry["shared"] > 0 for entry in by_name.values())
    store = [path for path in (cache / "blobs").rglob("*") if len(path.name) == 64]
    assert sum(disk["nbytes"] for disk in du["disks"]) == blocks(Path()) + sum(p.stat().st_blocks * 512 for p in store)
    (alone,) = (entry for entry in run("du", "made", "--json").json["entries"] if entry["name"] == "made")
    assert alone["shared"] == 0  # `linked` was not looked through


def test_to_look_is_not_to_use(run: Run, cache: Path, converted: Path) -> None:
    put(cache, "herd/llama", files_of(converted))
    blobs = list((cache / "models--herd--llama/blobs").iterdir())
    for path in blobs:
        os.utime(path, (1_700_000_000, 1_600_000_000))
    first = entries(run)["herd/llama"]["last_used"]
    assert first == entries(run)["herd/llama"]["last_used"] == "2023-11-14T22:13:20+00:00"
    for path in blobs:
        path.read_bytes()
    if max(path.stat().st_atime for path in blobs) > 1_700_000_000:  # the disk notes when files are read
        assert entries(run)["herd/llama"]["last_used"] > first


def test_what_is_broken_is_told_in_its_row(run: Run, cache: Path, converted: Path) -> None:
    whole = files_of(converted)
    part = {name: path for name, path in whole.items() if name != "model-00002-of-00004.safetensors"}
    put(cache, "herd/part", part, listed=[*whole, "README.md"])
    put(cache, "herd/config", {"config.json": whole["config.json"]}, listed=["config.json", "model.safetensors"])
    put(cache, "herd/text", {"README.md": b"#"})
    put(cache, "herd/bert", {**whole, "config.json": b'{"model_type": "bert"}'})
    put(cache, "herd/torn", {**whole, "model-00001-of-00004.safetensors": b"\x08\0\0"})
    snapshot = put(cache, "herd/gone", whole)
    (snapshot / "config.json").resolve().unlink()
    Path("made").mkdir()
    Path("made/conversion.json").write_text("{")
    Path("foreign").mkdir()
    Path("foreign/conversion.json").write_text('{"currency": "EUR"}')
    put(cache, "herd/well", whole, listed=[*whole, "README.md"])
    states = {
        name: "; ".join(filter(None, [entry["state"], *(place["state"] for place in entry["checkpoints"])]))
        for name, entry in entries(run).items()
    }
    assert states.pop("herd/part") == "incomplete: 2 files missing"
    assert states.pop("herd/config") == "incomplete: 1 file missing"
    assert states.pop("herd/text") == "no checkpoint in it"
    assert states.pop("herd/bert") == "not a Llama: config.json: model_type is 'bert', wanted 'llama'"
    assert states.pop("herd/torn").startswith("damaged: model-00001-of-00004.safetensors: ")
    assert states.pop("herd/gone").startswith("damaged: Blob missing")
    assert states.pop("made").startswith("damaged: conversion.json: unreadable")
    assert states == {"herd/well": ""}
    assert str(cache) not in run("list").out


def test_what_is_not_looked_at(run: Run, cache: Path, converted: Path, tmp_path: Path) -> None:
    for name in (".hidden/made", "1/2/3/four", "1/2/3/4/five", "made"):
        shutil.copytree(converted, name)
    Path("link").symlink_to("made")
    put(cache, "herd/llama", files_of(converted))
    assert set(entries(run)) == {"herd/llama", "1/2/3/four", "made"}
    assert set(entries(run, ".", "made", tmp_path / "home")) == {"herd/llama", "1/2/3/four", "made"}
    result = run("list", "nowhere", "1", "--json")
    assert (result.status, result.json["error"]) == (2, "nowhere: no such folder")


def test_an_empty_shelf(run: Run, cache: Path) -> None:
    cache.rmdir()
    for command in ("list", "du"):
        result = run(command)
        assert (result.status, result.out) == (0, "")
        assert result.err.startswith("Nothing is in the cache")
        assert run(command, "--json").json["entries"] == []


def test_what_the_client_fetched(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: Path) -> None:
    with FakeHub() as hub:
        commit = hub.add("herd/llama", files_of(converted))
        for name, patterns in {"all": None, "some": ["*.json", "model-00001*"]}.items():
            monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / name))
            huggingface_hub.snapshot_download(
                "herd/llama", endpoint=hub.url, cache_dir=tmp_path / name, allow_patterns=patterns, token=False
            )
            found = entries(run)["herd/llama"]
            assert (found["source"]["commit"], found["source"]["refs"]) == (commit, ["main"])
            (checkpoint,) = found["checkpoints"]
            assert checkpoint["state"] == ("incomplete: 3 files missing" if patterns else "")
