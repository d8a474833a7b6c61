"""`remove`: what goes is what was said, nothing else goes, and an interruption can be mended."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.constants
import pytest

from llama_convert.convert.publish import lock_file, staged
from llama_convert.convert.removing import remove_made, removed_folder
from tests.cli.cached import blocks, files_of, put
from tests.cli.commands import Result, change_json
from tests.cli.conftest import check_refusal

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the command runs in an empty folder."""
    folder = tmp_path / "home" / "hub"
    folder.mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.fixture
def made(converted: Path) -> Path:
    """A converted folder, here."""
    return Path(shutil.copytree(converted, "made"))


def names(run: Run) -> set[str]:
    return {entry["name"] for entry in run("list", "--json").json["entries"]}


def removed(run: Run, name: str, *places: Path) -> int:
    """Bytes that removing it freed, which must be what was said."""
    before = blocks(*places)
    result = run("remove", name, "--yes", "--json")
    assert result.status == 0, result.err
    assert (result.json["removed"], result.json["name"]) == (True, name)
    assert result.json["freed"] == before - blocks(*places)
    return int(result.json["freed"])


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
    assert removed(run, "flock/llama", cache) > blocks(converted)
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


def test_rests_of_downloads(run: Run, cache: Path, converted: Path) -> None:
    put(cache, "herd/llama", files_of(converted))
    (cache / "models--herd--llama/blobs/0123.4567.incomplete").write_bytes(b"#" * 9999)
    assert names(run) == {"herd/llama", "herd/llama@incomplete"}
    locks = cache / ".locks/models--herd--llama"
    locks.mkdir(parents=True)
    with (locks / "0123.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for name in ("herd/llama", "herd/llama@incomplete"):
            check_refusal(run("remove", name, "--yes"), 2)
    assert 9999 < removed(run, "herd/llama@incomplete", cache) < 20_000
    assert names(run) == {"herd/llama"}


@contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """A process that does this and dies without any tidying, as if killed; it is killed when the block ends."""
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(9)
    try:
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def dies(work: Callable[[], None]) -> None:
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(9)
    os.waitpid(process, 0)


def test_a_run_that_is_not_over_and_what_it_leaves_when_killed(run: Run) -> None:
    def write() -> None:
        with staged(Path("out")) as partial:
            (partial / "half.safetensors").write_bytes(b"#" * 9999)
            (partial / "ready").touch()
            time.sleep(60)

    with child(write):
        while not Path(".out.partial/ready").exists():
            time.sleep(0.01)
        (entry,) = run("list", "--json").json["entries"]
        assert (entry["name"], entry["state"]) == (".out.partial", "being written now")
        check_refusal(run("remove", ".out.partial", "--yes"), 2)
    (entry,) = run("list", "--json").json["entries"]
    assert entry["state"] == "not finished: left by a killed run"
    assert removed(run, ".out.partial", Path()) > 9999
    assert list(Path().iterdir()) == []


def test_a_folder_of_such_a_name_that_is_not_ours(run: Run) -> None:
    Path(".thesis.partial").mkdir()
    Path(".thesis.partial/chapter").write_text("mine")
    Path(".thesis.removed").mkdir()
    Path(".thesis.removed/chapter").write_text("mine")
    assert names(run) == set()
    for name in (".thesis.partial", ".thesis.removed"):
        check_refusal(run("remove", name, "--yes"), 2)
    assert len(list(Path().rglob("chapter"))) == 2


def test_a_folder_that_is_being_written(run: Run, made: Path) -> None:
    with lock_file(made).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        check_refusal(run("remove", "made", "--yes"), 2)
    assert len(files_of(made)) > 5
    lock_file(made).unlink()


def test_the_only_copy_of_a_replaced_folder_stays(run: Run, made: Path) -> None:
    made.rename(".made.replaced")
    lock_file(made).touch()
    assert "rename" in run("remove", ".made.replaced", "--yes").err.lower()
    assert len(files_of(Path(".made.replaced"))) > 5


@pytest.mark.parametrize("last", range(0, 16, 3))
def test_killed_while_it_removes(run: Run, made: Path, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """last: files deleted before the kill."""
    (Path("other")).write_text("mine")
    everything = set(files_of(made))

    def work() -> None:
        unlink, count = Path.unlink, iter(range(last))
        Path.unlink = lambda path, **options: unlink(path, **options) if next(count, None) is not None else os._exit(9)  # type: ignore[assignment]
        remove_made(made)

    dies(work)
    aside = removed_folder(made)
    assert not made.exists()
    assert len(files_of(aside)) == len(everything) - min(last, len(everything))
    if aside.exists():
        assert names(run) == {".made.removed"}
        assert run("remove", ".made.removed", "--yes").status == 0
    assert {path.name for path in Path().iterdir()} - {".made.lock"} == {"other"}


def test_interrupted_while_it_removes(run: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, count = Path.unlink, iter(range(3))

    def interrupted(path: Path, **options: bool) -> None:
        if path.parent.name.endswith(".removed") and next(count, None) is None:
            raise KeyboardInterrupt
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted)
        result = run("remove", "made", "--yes")
    assert result.status == 130
    assert "Run: llama-convert remove .made.removed" in result.err
    assert [path.name for path in Path().iterdir()] == [".made.removed"]
    assert removed(run, ".made.removed", Path()) > 0
    assert list(Path().iterdir()) == []


def test_the_cache_is_not_left_half_removed(
    run: Run, cache: Path, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, "herd/llama", files_of(converted))
    rmtree = shutil.rmtree

    def disturbed(path: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        rmtree(path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", disturbed)
        assert run("remove", "herd/llama", "--yes").status == 130
    assert not (cache / "models--herd--llama").exists()


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
