"""A folder appears whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llama_convert.convert.errors import SpaceError, UsageError
from llama_convert.convert.publish import check_destination, partial_folder, staged


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() if p.is_file() else "" for p in folder.rglob("*")}


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "Llama-3.1-8B"


def test_the_folder_appears_at_the_end(output):
    with staged(output) as partial:
        (partial / "original").mkdir()
        (partial / "original" / "a").write_text("1")
        assert not output.exists()
        assert partial.parent == output.parent
    assert tree(output.parent) == {output.name: "", f"{output.name}/original": "", f"{output.name}/original/a": "1"}


def test_missing_parents_are_made(tmp_path):
    with staged(tmp_path / "a" / "b") as partial:
        (partial / "file").write_text("1")
    assert tree(tmp_path / "a" / "b") == {"file": "1"}


def fail_within(output: Path, error: type[BaseException]) -> None:
    with staged(output) as partial:
        (partial / "half").write_text("x")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, {}, {"config.json": "old"}], ids=["absent", "empty", "full"])
def test_an_error_leaves_all_as_it_was(output, error, old):
    if old is not None:
        output.mkdir()
        for name, text in old.items():
            (output / name).write_text(text)
    before = tree(output.parent)
    with pytest.raises(error):
        fail_within(output, error)
    assert tree(output.parent) == before


@pytest.mark.parametrize("old", [{}, {"config.json": "old", "more.bin": "old"}], ids=["empty", "full"])
def test_an_old_folder_is_replaced_only_at_the_end(output, old):
    output.mkdir()
    for name, text in old.items():
        (output / name).write_text(text)
    with staged(output) as partial:
        (partial / "config.json").write_text("new")
        assert tree(output) == old
    assert tree(output.parent) == {output.name: "", f"{output.name}/config.json": "new"}


def test_what_a_killed_run_left_is_removed(output):
    left = [partial_folder(output), output.parent / f".{output.name}.replaced"]
    output.mkdir()
    for folder in (*left, output):
        folder.mkdir(exist_ok=True)
        (folder / "old").write_text("x")
    with staged(output) as partial:
        assert tree(partial) == {}
    assert tree(output.parent) == {output.name: ""}


def test_two_runs_do_not_write_the_same_folder(output):
    with staged(output) as partial:
        (partial / "a").write_text("1")
        with pytest.raises(UsageError, match="another run"), staged(output):
            pytest.fail("it was not locked")
        other = output.parent / "other"
        with staged(other):
            pass
        assert tree(partial) == {"a": "1"}
    with staged(output):
        pass


def test_the_lock_of_a_killed_run_is_open_again(output):
    program = (
        "import os, sys; from pathlib import Path; from llama_convert.convert.publish import staged\n"
        "with staged(Path(sys.argv[1])) as partial:\n    (partial / 'half').write_text('x'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(output)], check=False).returncode == -9
    assert partial_folder(output).exists()
    with staged(output) as partial:
        assert tree(partial) == {}
    assert tree(output.parent) == {output.name: ""}


# --- where the output may go ---------------------------------------------------------------------


def check(folder: Path, source: Path, nbytes: int = 0, *, overwrite: bool = False) -> None:
    check_destination(folder, source, nbytes, overwrite=overwrite)


def test_a_new_or_empty_folder_is_fine(tmp_path):
    source = tmp_path / "source"
    (tmp_path / "empty").mkdir()
    check(tmp_path / "new", source)
    check(tmp_path / "empty", source)
    check(source / "inside", source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]  # nothing was created


def test_the_source_is_never_replaced(tmp_path):
    source = tmp_path / "models" / "source"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    for folder in (source, source.parent, tmp_path, tmp_path / "link", source / ".." / "source"):
        with pytest.raises(UsageError, match="this is the source, or holds it"):
            check(folder, source, overwrite=True)


def test_only_a_model_is_overwritten(tmp_path):
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years")
    with pytest.raises(UsageError, match="not empty"):
        check(folder, tmp_path / "source")
    with pytest.raises(UsageError, match=r"holds no model \(thesis\.tex"):
        check(folder, tmp_path / "source", overwrite=True)
    (folder / "config.json").write_text("{}")
    check(folder, tmp_path / "source", overwrite=True)
    with pytest.raises(UsageError, match="not empty"):
        check(folder, tmp_path / "source")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        check(tmp_path / "file", tmp_path / "source", overwrite=True)


def test_a_full_disk_is_seen_before(tmp_path):
    with pytest.raises(SpaceError, match="are needed"):
        check(tmp_path / "deep" / "new", tmp_path / "source", 1 << 60)
