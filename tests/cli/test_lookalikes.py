"""Web pages, error messages and pointers under the names of a checkpoint's files: named, all of them at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import Result
from tests.cli.conftest import check_refusal

PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Access Denied</title></head>" + b" " * 48_000
MESSAGE = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 16060556376\n"
KINDS = {
    "page": (PAGE, "an HTML page", "not logged in"),
    "page after a mark": (b"\xef\xbb\xbf<HTML>", "an HTML page", "not logged in"),
    "message": (MESSAGE, "an XML error message", "expired"),
    "short message": (b"<Error><Code>AccessDenied</Code></Error>", "an XML error message", "expired"),
    "pointer": (POINTER, "a Git LFS pointer", "git lfs pull"),
}
Run = Callable[..., Result]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["consolidated.01.pth", "params.json", "tokenizer.model", "checklist.chk"])
@pytest.mark.parametrize("command", ["inspect", "import"])
def test_one_file_of_metas(command: str, name: str, kind: str, run: Run, source: Callable[..., Path]) -> None:
    data, what, advice = KINDS[kind]
    folder = source(checklist=True)
    (folder / name).write_bytes(data)
    result = run(command, folder)
    check_refusal(result, 3)
    assert result.complaint[0].startswith(f"llama-convert: {folder / name}: this is {what}, not ")
    assert advice in result.complaint[-1]
    assert not (folder / "conversion.json").exists()


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00004.safetensors", "model.safetensors.index.json"])
def test_one_file_of_hugging_faces(name: str, run: Run, converted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(converted, tmp_path / "hf")
    (folder / name).write_bytes(POINTER)
    result = run("inspect", folder)
    check_refusal(result, 3)
    assert f"{name}: this is a Git LFS pointer" in result.complaint[0]


def test_all_of_a_folder_are_named(run: Run, source: Callable[..., Path]) -> None:
    folder = source(checklist=True)
    files = {"consolidated.00.pth": PAGE, "consolidated.02.pth": PAGE, "params.json": MESSAGE, "checklist.chk": PAGE}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    result = run("verify", folder)
    check_refusal(result, 3)
    first, *lines, advice = result.complaint
    assert first == f"llama-convert: {folder}: 4 files of other contents than the name says"
    assert [line.split(":")[0].strip() for line in lines] == sorted(files)
    assert lines[0] == f"  checklist.chk: an HTML page, {len(PAGE):,} bytes"
    assert "web page" in advice
    assert "expired" in advice


def test_other_damage_is_named_beside_them(run: Run, source: Callable[..., Path]) -> None:
    folder = source(checklist=False)
    (folder / "consolidated.00.pth").write_bytes(PAGE)
    (folder / "consolidated.01.pth").write_bytes(PAGE)
    (folder / "consolidated.02.pth").write_bytes((folder / "consolidated.02.pth").read_bytes()[:-500])
    result = run("inspect", folder)
    check_refusal(result, 3)
    assert ["consolidated.00.pth" in line for line in result.complaint].count(True) == 1
    assert any("consolidated.02.pth: truncated" in line for line in result.complaint)


def test_a_folder_of_pages_alone(run: Run, tmp_path: Path) -> None:
    """No format knows such a folder: nothing in it is what a format looks for."""
    (tmp_path / "model.bin").write_bytes(PAGE)
    result = run("inspect", tmp_path)
    check_refusal(result, 3)
    assert "model.bin: an HTML page" in result.err
    result = run("inspect", tmp_path / "model.bin")
    check_refusal(result, 3)
    assert "an HTML page" in result.err


def test_files_that_are_not_used_do_no_harm(run: Run, converted: Path, tmp_path: Path) -> None:
    """A clone without its large files, of which the ones that count were fetched."""
    folder = shutil.copytree(converted, tmp_path / "hf")
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(POINTER)
    (folder / "page.html").write_bytes(PAGE)
    assert run("inspect", folder).status == 0
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    result = run("inspect", folder)
    assert result.status == 3
    assert "gpt2" in result.complaint[0], "what is wrong is said, not what is beside it"
