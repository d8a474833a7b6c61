"""`remove`: what goes is what was said, and nothing else goes."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from tests.cli.cached import blocks, files_of, names, put, removed
from tests.cli.commands import Result, change_json
from tests.cli.conftest import check_refusal

Run = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("cache")


def test_a_made_folder(run: Run, made: Path) -> None:
    size = blocks(made)
    assert removed(run, "made", Path()) == size > 0
    assert list(Path().iterdir()) == []


def test_files_of_the_user_keep_all_of_it(run: Run, made: Path) -> None:
    (made / "notes.txt").write_text("mine")
    (made / "adapter").mkdir()
    (made / "adapter/adapter_model.safetensors").write_text("mine")
    before = sorted(Path().rglob("*"))
    result = run("remove", "made", "--yes")
    check_refusal(result, 2)
    assert {line.strip() for line in result.complaint[1:-1]} == {"adapter/adapter_model.safetensors", "notes.txt"}
    assert sorted(Path().rglob("*")) == before


def test_a_file_that_was_changed_is_told(run: Run, made: Path) -> None:
    change_json(made / "config.json", note="mine")
    result = run("remove", "made")
    check_refusal(result, 2)
    assert "note: config.json was changed since it was written." in result.err
    assert made.exists()


@pytest.mark.parametrize("record", ["{", '{"tool": {"llama-convert": "1"}, "target": 3}', '{"currency": "EUR"}'])
def test_without_a_record_nothing_goes(run: Run, made: Path, record: str) -> None:
    (made / "conversion.json").write_text(record)
    check_refusal(run("remove", "made", "--yes"), 2)
    assert len(files_of(made)) > 5


def test_a_record_cannot_point_elsewhere(run: Run, made: Path) -> None:
    Path("precious").write_text("mine")
    values = json.loads((made / "conversion.json").read_text())
    values["target"]["files"] |= {"../precious": {"size": 4}, str(Path("precious").absolute()): {"size": 4}}
    (made / "conversion.json").write_text(json.dumps(values))
    assert run("remove", "made", "--yes").status == 0
    assert [path.name for path in Path().iterdir()] == ["precious"]


def test_hard_links_stay(run: Run, made: Path) -> None:
    shutil.copytree(made, "linked", copy_function=os.link)
    assert removed(run, "linked", Path()) == 0
    assert removed(run, "made", Path()) > 0


def test_a_link_is_not_the_folder(run: Run, made: Path) -> None:
    Path("link").symlink_to("made")
    check_refusal(run("remove", "link", "--yes"), 2)
    assert names(run) == {"made"}


def test_one_of_two_revisions(run: Run, cache: Path, converted: Path) -> None:
    files = files_of(converted)
    put(cache, "herd/llama", files, commit="a" * 40)
    put(cache, "herd/llama", {**files, "big.txt": b"#" * 9999}, commit="b" * 40, ref="new")
    assert 9999 < removed(run, "herd/llama@bbbbbbbb", cache) < 20_000
    assert names(run) == {"herd/llama"}
    assert run("list", "--json").json["entries"][0]["checkpoints"][0]["state"] == ""
    assert removed(run, "herd/llama", cache) >= blocks(converted) - 8192
    assert not (cache / "models--herd--llama").exists()


def test_a_blob_of_the_store_stays_while_others_link_to_it(run: Run, cache: Path, converted: Path) -> None:
    for name in ("herd/llama", "flock/llama"):
        put(cache, name, files_of(converted), shared=True)
    result = run("remove", "herd/llama")
    assert "MB stay, for others hold them too" in result.err
    assert removed(run, "herd/llama", cache) < 8192
    assert run("list", "--json").json["entries"][0]["checkpoints"][0]["state"] == ""
    freed = removed(run, "flock/llama", cache)
    if int(huggingface_hub.__version__.split(".")[0]) > 1:  # before, the client leaves the store alone
        assert freed > blocks(converted)
        assert [path for path in (cache / "blobs").rglob("*") if len(path.name) == 64] == []


@pytest.mark.parametrize("meant", ["herd/llama", "herd/new-name"])
def test_a_renamed_repository_lies_there_twice_and_one_goes(run: Run, cache: Path, converted: Path, meant: str) -> None:
    for name in ("herd/llama", "herd/new-name"):
        put(cache, name, files_of(converted))
    assert removed(run, meant, cache) > 0
    assert names(run) == {"herd/llama", "herd/new-name"} - {meant}


def test_two_things_of_one_name(run: Run, cache: Path, converted: Path) -> None:
    put(cache, "herd/llama", files_of(converted), commit="a" * 40)
    shutil.copytree(converted, "herd/llama")
    assert names(run) == {"herd/llama", "./herd/llama"}
    check_refusal(run("remove", "herd/llama", "--yes"), 2)
    assert removed(run, "./herd/llama", Path()) > 0
    assert names(run) == {"herd/llama"}


@pytest.mark.parametrize("name", ["nothing", "herd/nothing", "herd/nothing@incomplete", "herd/llama@ffff", "plain"])
def test_what_is_not_there_or_not_ours(run: Run, cache: Path, converted: Path, name: str) -> None:
    put(cache, "herd/llama", files_of(converted))
    Path("plain").mkdir()
    check_refusal(run("remove", name, "--yes"), 2)
    assert names(run) == {"herd/llama"}
    assert Path("plain").exists()


def test_it_asks(cache: Path, made: Path) -> None:
    for answer, left in (("n", True), ("y", False)):
        ours, theirs = pty.openpty()
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [Path(sys.executable).with_name("llama-convert"), "remove", "made", "--json"],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_CACHE": str(cache)},
        )
        os.close(ours)
        os.close(theirs)
        assert done.returncode == 0, done.stderr
        assert "Remove it? [y/N]" in done.stderr
        assert json.loads(done.stdout)["removed"] is not left
        assert made.exists() is left


def test_without_a_terminal_it_says_what_to_type(run: Run, made: Path) -> None:
    result = run("remove", "made")
    check_refusal(result, 2)
    assert result.complaint[-1] == "Run: llama-convert remove made --yes."
    assert len(files_of(made)) > 5
