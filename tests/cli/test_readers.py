"""`remove` while another run reads: nothing goes, and it is said who reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_convert.cli.removable import find
from llama_convert.convert import UsageError
from llama_convert.convert.readers import reading
from tests.cli.cached import files_of, names, put, removed
from tests.cli.commands import Result
from tests.cli.conftest import BY_NAME, check_refusal
from tests.cli.test_processes import stopped
from tests.hub.downloads import everything

Run = Callable[..., Result]
LOCKS = Path("/proc/locks")


def check_kept(run: Run, name: str, *places: Path, process: int) -> None:
    """It is refused, in one line that says who reads, and nothing has changed."""
    before = [everything(place) for place in places]
    refused = run("remove", name, "--yes")
    check_refusal(refused, 2)
    told = LOCKS.exists() and f" {process} " in LOCKS.read_text()
    who = f"process {process}" if told else "another process"
    assert refused.complaint == [
        f"llama-convert: {name}: {who} reads it now",
        "Wait until that is over, or end it.",
    ]
    assert [everything(place) for place in places] == before


@pytest.mark.parametrize("command", [["convert", "FROM", "output"], ["pad", "FROM", "output"], ["generate", "FROM"]])
def test_a_cached_repository(run: Run, cache: Path, converted: Path, command: list[str]) -> None:
    """Read at its root, below it or from a single file: the whole commit stays, and only that."""
    original = BY_NAME["3-2shards"].write(cache.parent / "source")
    nested = {f"original/{name}": path for name, path in files_of(original).items()}
    snapshot = put(cache, "herd/llama", {**files_of(converted), **nested}, commit="a" * 40)
    put(cache, "herd/llama", files_of(converted), commit="b" * 40, ref="new")
    put(cache, "herd/other", files_of(converted))
    place = snapshot if command[0] == "pad" else snapshot / "original"
    arguments = [str(place) if word == "FROM" else word for word in command]
    more = ["--prompt", "Once"] if command[0] == "generate" else []
    with stopped("first bytes", *arguments, *more) as process:
        check_kept(run, "herd/llama@aaaaaaaa", cache, process=process.pid)
        check_kept(run, "herd/llama", cache, process=process.pid)
        removed(run, "herd/llama@bbbbbbbb", cache)
        removed(run, "herd/other", cache)
    assert removed(run, "herd/llama", cache) > 0, "the process is gone, and its lock with it"


@pytest.mark.usefixtures("cache")
def test_a_made_folder(run: Run, made: Path) -> None:
    other = Path(shutil.copytree(made, "other"))
    os.sync()  # a file system may find room for what was written only then, and it is counted
    with stopped("first bytes", "convert", made, "output", "--to", "scratch") as process:
        check_kept(run, "made", made, process=process.pid)
        removed(run, "other", other)
    # Not all below: the file system still changes what the conversion that was ended left there.
    assert removed(run, "made", made) > 0
    assert "made" not in names(run)


@pytest.mark.parametrize("command", [["verify", "made", "made"], ["diff", "made", "made"]])
@pytest.mark.usefixtures("cache", "made")
def test_comparisons_are_readers(run: Run, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def compared(*_: object, **__: object) -> None:
        with pytest.raises(UsageError) as caught:
            find("made")
        told.append(caught.value.summary)
        raise KeyboardInterrupt

    monkeypatch.setattr("llama_convert.cli.verifying.show_verification", compared)
    monkeypatch.setattr("llama_convert.verify.differences.differences", compared)
    assert run(*command).status == 130
    assert [text.endswith(" reads it now") for text in told] == [True]
    assert find("made").name == "made"


def test_what_is_being_removed_is_not_read(
    run: Run, cache: Path, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first file on; and one that begins to read between the question and the answer is not disturbed."""
    snapshot = put(cache, "herd/llama", files_of(converted))
    told = []

    def removing(plan: object) -> None:
        done = run("convert", snapshot, "output")
        told.append((done.status, done.complaint[0]))

    monkeypatch.setattr("llama_convert.cli.removable.remove_cached", removing)
    found = find("herd/llama")
    found.carry_out()
    assert told == [(2, f"llama-convert: {snapshot}: is being removed now")]
    with reading(snapshot), pytest.raises(UsageError, match="reads it now"):
        found.carry_out()
    assert len(told) == 1


def test_a_cache_that_only_others_may_write_to(run: Run, cache: Path, converted: Path) -> None:
    """Reading leaves nothing in it."""
    snapshot = put(cache, "herd/llama", files_of(converted))
    before = everything(cache)
    with reading(snapshot):
        assert everything(cache) == before
    assert run("convert", snapshot, "output", "-q").status == 0
    assert everything(cache) == before
    with reading(Path(os.devnull), snapshot / "nothing" / "here"):  # what cannot be locked is read all the same
        pass
