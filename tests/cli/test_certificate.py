"""`verify --certificate` and what `convert --verify` leaves for it, through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_convert.verify.report import judged
from tests.cli.commands import Result
from tests.cli.conftest import check_refusal

Run = Callable[..., Result]


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "copy"))


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_moved_folder_is_as_it_was_written(run: Run, copy: Path) -> None:
    result = run("verify", copy, "--certificate")
    assert result.status == 0
    first, second, last = result.out.splitlines()
    assert first.startswith("certificate passed")
    assert second == "verified    not verified when it was written"
    assert last == f"{copy}: as it was written"


def test_a_changed_bit_is_told(run: Run, copy: Path) -> None:
    path = sorted(copy.glob("*.safetensors"))[-1]
    flip_last_byte(path)
    result = run("verify", copy, "--certificate")
    assert result.status == 1
    assert result.out.startswith("certificate failed")
    assert f"{path.name}: lm_head.weight at offset" in result.out
    assert result.out.endswith(f"{copy}: NOT AS IT WAS WRITTEN\n")
    found = run("verify", copy, "--certificate", "--json")
    assert (found.status, found.json["ok"], found.json["b"], found.json["verified"]) == (1, False, None, None)
    assert path.name in found.json["levels"][0]["findings"][0]
    everything = run("verify", copy, "--level", "files")
    assert (everything.status, f"{path.name}: lm_head.weight at offset" in everything.out) == (1, True)


@pytest.mark.parametrize("more", [["other"], ["--level", "files"]], ids=str)
def test_it_goes_with_nothing_else(run: Run, copy: Path, more: list[str]) -> None:
    result = run("verify", copy, *more, "--certificate")
    check_refusal(result, 2)
    assert "--certificate takes A alone" in result.err


def test_without_a_certificate_it_is_refused(run: Run, copy: Path) -> None:
    check_refusal(run("verify", copy / "nowhere", "--certificate"), 2)
    (copy / "conversion.json").unlink()
    result = run("verify", copy, "--certificate")
    check_refusal(result, 3)
    assert "conversion.json: missing" in result.err


def test_the_verdict_of_a_conversion_stays_with_it(run: Run, source: Callable[..., Path], output: Path) -> None:
    folder = source("3-2shards")
    assert run("convert", folder, output, "--verify").status == 0
    assert str(folder.parent) not in (output / "conversion.json").read_text()
    moved = output.rename(output.with_name("moved"))
    shutil.rmtree(folder)
    result = run("verify", moved, "--certificate")
    assert result.status == 0
    line = result.out.splitlines()[1]
    assert ": the same model as source (files passed, structure passed," in line
    found = run("verify", moved, "--certificate", "--json").json["verified"]
    assert (found["a"], found["ok"]) == ("source", True)
    assert found["levels"][0]["measures"]["a_records"] > 0


def test_a_folder_that_is_not_the_same_model_keeps_that_too(
    run: Run, source: Callable[..., Path], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_convert.verify.files.check_files", lambda a, b: judged("files", "", ("wrong",)))
    assert run("convert", source("3-2shards"), output, "--verify").status == 1
    verified = json.loads((output / "conversion.json").read_text())["verified"]
    assert (verified["ok"], verified["levels"][0]["verdict"]) == (False, "failed")
    assert "NOT THE SAME MODEL AS source" in run("verify", output, "--certificate").out
