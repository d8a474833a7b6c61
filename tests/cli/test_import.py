"""`import DIR`: a folder made elsewhere is checked once, recorded, and known to the other commands from then on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from llama_convert.convert import convert_checkpoint, plan_conversion
from llama_convert.convert.claims import read_claims
from tests.checkpoints import Case
from tests.cli.commands import Result, flip_byte
from tests.cli.conftest import BY_NAME
from tests.cli.folders import contents

RECORD = "conversion.json"
Run = Callable[..., Result]


@pytest.fixture
def folder(meta_checkpoint: Callable[[Case], Path], tmp_path: Path) -> Path:
    """What Meta's download.sh leaves: case 3.1-4shards, whose version the files leave open."""
    return shutil.copytree(meta_checkpoint(BY_NAME["3.1-4shards"]), tmp_path / "Llama3.1-8B")


def record(folder: Path) -> Any:
    return json.loads((folder / RECORD).read_text())


def test_a_folder_of_metas(run: Run, folder: Path) -> None:
    before = contents(folder)
    result = run("import", folder)
    assert result.status == 0, result.err
    assert "Llama 3.1, 1.3 M parameters, bfloat16, meta in 4 files" in result.out
    assert "CRC-32s of .pth records, 6 digests of checklist.chk" in result.out
    after = contents(folder)
    assert after.keys() - before.keys() == {RECORD}
    assert {name: after[name] for name in before} == before
    values = record(folder)
    assert values["source"]["imported"] is True
    assert {name: entry["size"] for name, entry in values["target"]["files"].items()} == {
        name: len(data) for name, data in before.items()
    }
    assert run("verify", folder, "--certificate").status == 0
    assert run("verify", folder, "--level", "files,structure").status == 0


def test_the_shelf_knows_it(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert run("list", folder, "--json").json["entries"] == []
    assert run("import", folder, "-q").status == 0
    (entry,) = run("list", folder, "--json").json["entries"]
    assert entry["checkpoints"][0]["format"] == "meta"
    assert run("remove", folder, "--yes").status == 0
    assert not folder.exists()


def test_json_is_one_object(run: Run, folder: Path) -> None:
    result = run("import", folder, "--json")
    assert (result.json["ok"], result.json["recorded"]) == (True, True)
    again = run("import", folder, "--json")
    assert (again.json["ok"], again.json["recorded"]) == (True, False)


def test_a_second_import_changes_nothing(run: Run, folder: Path) -> None:
    assert run("import", folder).status == 0
    before = contents(folder)
    (folder / "params.json").write_text("{}")
    result = run("import", folder)
    assert (result.status, result.out) == (0, "")
    assert "has a conversion.json already; nothing is changed" in result.err
    assert contents(folder) == before | {"params.json": b"{}"}


# --- the version: only what is certain is claimed ---


def test_an_open_version_stays_open(run: Run, folder: Path) -> None:
    before = run("inspect", folder, "--json").json
    assert len(before["llama_versions_that_fit"]) > 1
    assert run("import", folder).status == 0
    assert run("inspect", folder, "--json").json == before
    assert read_claims(folder).llama_version is None


def test_an_asserted_version_is_kept(run: Run, folder: Path) -> None:
    assert run("import", folder, "--llama-version", "3.2").status == 0
    assert read_claims(folder).llama_version == "3.2"
    assert run("inspect", folder, "--json").json["llama_version"] == "3.2"


def test_a_version_that_alone_fits_is_kept(run: Run, tmp_path: Path) -> None:
    folder = BY_NAME["1"].write(tmp_path / "llama-1")
    assert run("import", folder).status == 0
    assert (read_claims(folder).llama_version, record(folder)["target"]["llama_version"]) == ("1", "1")


# --- every format, and every byte of it ---


@pytest.mark.parametrize("form", ["hf", "gguf", "scratch", "litgpt", "torchtune", "mlx", "llama2c", "meta"])
def test_every_format(form: str, run: Run, meta_checkpoint: Callable[[Case], Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    case = "2" if form == "llama2c" else "3"
    convert_checkpoint(plan_conversion(meta_checkpoint(BY_NAME[case]), to=form), folder)
    (folder / RECORD).unlink()
    assert run("import", folder, "-q").status == 0
    assert run("verify", folder, "--certificate").status == 0
    assert_every_byte_counts(run, folder)


@pytest.mark.parametrize(
    "layout", [{"shared_storage": True}, {"strided": True}, {"legacy": True}, {"rope_freqs": True}]
)
def test_every_layout(layout: dict[str, Any], run: Run, tmp_path: Path) -> None:
    folder = BY_NAME["2-2shards"].write(tmp_path / "folder", **layout)
    assert run("import", folder, "-q").status == 0
    assert_every_byte_counts(run, folder)


def assert_every_byte_counts(run: Run, folder: Path) -> None:
    """A bit changed anywhere in any file is found."""
    draw = random.Random(0)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD):
        data = path.read_bytes()
        position = draw.randrange(len(data))
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        result = run("verify", folder, "--certificate")
        assert (result.status, path.name in result.out) == (1, True), (path, position)
        path.write_bytes(data)


def test_what_is_made_of_it_is_recorded_too(run: Run, folder: Path, converted: Path, tmp_path: Path) -> None:
    """Its record serves as any other: for a conversion, and for a change in place that keeps most files."""
    assert run("import", folder, "-q").status == 0
    assert run("convert", folder, tmp_path / "hf", "-q").status == 0
    assert record(tmp_path / "hf")["target"]["llama_version"] == "3.1"
    changed = shutil.copytree(converted, tmp_path / "changed")
    (changed / RECORD).unlink()
    assert run("import", changed, "-q").status == 0
    assert run("pad", changed, "--in-place", "-q").status == 0
    assert record(changed)["tensors"].keys() == record(converted)["tensors"].keys()
    assert run("verify", changed, "--certificate").status == 0


# --- what is not sound is not recorded ---


def test_a_checklist_of_sha_256(run: Run, folder: Path) -> None:
    files = [path for path in sorted(folder.iterdir()) if path.name != "checklist.chk"]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.name}" for path in files]
    (folder / "checklist.chk").write_text("\n".join(["# by us", "", *lines]))
    result = run("import", folder)
    assert (result.status, "6 digests of checklist.chk" in result.out) == (0, True)
    (folder / RECORD).unlink()
    (folder / "params.json").write_text((folder / "params.json").read_text() + " ")
    result = run("import", folder)
    assert (result.status, "params.json has SHA-256" in result.out) == (3, True)


def test_all_that_is_wrong_is_said_at_once(run: Run, folder: Path) -> None:
    flip_byte(folder / "consolidated.01.pth", "data/3")
    (folder / "params.json").write_text((folder / "params.json").read_text() + " ")
    (folder / "tokenizer.model").unlink()
    before = contents(folder)
    for options in ((), ("--json",)):
        result = run("import", folder, *options)
        assert result.status == 3
        for name in ("consolidated.01/data/3", "consolidated.01.pth has MD5", "params.json has MD5", "tokenizer.model"):
            assert name in result.out, name
    assert (result.json["ok"], result.json["recorded"], result.json["status"]) == (False, False, 3)
    assert result.complaint[0].endswith("not recorded: 4 problems")
    assert contents(folder) == before


@pytest.mark.parametrize("status", [2, 3])
def test_what_cannot_be_opened(status: int, run: Run, folder: Path, tmp_path: Path) -> None:
    if status == 3:
        os.truncate(folder / "consolidated.02.pth", 100_000)
    assert run("import", folder if status == 3 else tmp_path / "none").status == status
    assert not (folder / RECORD).exists()


def test_no_checksums_are_said_to_be_none(run: Run, converted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(converted, tmp_path / "hf")
    (folder / RECORD).unlink()
    result = run("import", folder)
    assert result.status == 0
    assert "files       not checked" in result.out
    assert "No checksums came with these files" in result.err


def test_the_cache_of_the_hub_is_left_alone(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder.parent))
    before = contents(folder)
    assert run("import", folder).status == 2
    assert contents(folder) == before


def test_a_full_disk_leaves_nothing(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run("import", folder).status == 5
    assert contents(folder) == before
