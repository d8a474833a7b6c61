"""What killed and interrupted runs leave: shown by `list`, cleared by `remove`, and never mistaken."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llama_convert.convert.publish import lock_file, staged
from llama_convert.convert.removing import remove_made, removed_folder
from tests.cli.cached import files_of, names, put, removed
from tests.cli.commands import Result
from tests.cli.conftest import check_refusal

Run = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("cache")


def sizes(names: set[str], folder: Path) -> int:
    return sum((folder / name).stat().st_blocks * 512 for name in names)


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


def test_a_download_into_a_folder(run: Run, converted: Path) -> None:
    """Nothing goes without a record; with one all of it, with what the client and we note; no files of the user."""
    folder = Path(shutil.copytree(converted, "fetched", ignore=shutil.ignore_patterns("conversion.json")))
    whole = set(files_of(folder))
    noted = folder / ".cache/huggingface/download"
    noted.mkdir(parents=True)
    (noted / "config.json.metadata").write_text("noted")
    part = folder / "model.safetensors.llama-convert.incomplete"
    part.write_bytes(b"#" * 9999)
    assert names(run) == set()
    check_refusal(run("remove", "fetched", "--yes"), 2)
    record = {name: {"size": (folder / name).stat().st_size} for name in whole}
    (folder / ".cache/llama-convert").mkdir()
    values = {"repository": "herd/llama", "commit": "a" * 40, "files": record}
    (folder / ".cache/llama-convert/download.json").write_text(json.dumps(values))
    (folder / "notes.txt").write_text("mine")
    check_refusal(run("remove", "fetched", "--yes"), 2)
    (folder / "notes.txt").unlink()
    for locked in (noted / "config.json.lock", part):
        with locked.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert "a run is writing it now" in run("remove", "fetched", "--yes").err
    assert removed(run, "fetched", Path()) > 9999
    assert list(Path().iterdir()) == []


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
        for options in ((), ("--yes",)):  # told before it asks
            result = run("remove", "made", *options)
            check_refusal(result, 2)
            assert "a run is writing it now" in result.err
    assert len(files_of(made)) > 5
    lock_file(made).unlink()


def test_the_beginnings_of_a_download_are_shown_once(run: Run, cache: Path) -> None:
    blobs = cache / "models--herd--llama/blobs"
    blobs.mkdir(parents=True)
    (blobs / "0123.llama-convert.incomplete").write_bytes(b"#" * 9999)
    assert names(run) == {"herd/llama@incomplete"}
    assert removed(run, "herd/llama@incomplete", cache) > 9999
    assert names(run) == set()


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
        (entry,) = run("list", "--json").json["entries"]
        assert (entry["name"], entry["kind"], entry["state"]) == (".made.removed", "leftover", "half removed")
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
