"""Small files written by a process of their own."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import pytest

from llama_convert.convert.aside import written_aside
from llama_convert.convert.errors import SpaceError
from llama_convert.convert.outputs import SideFile


def write_process(path: Path) -> None:
    path.write_text(str(os.getpid()))


def fail(path: Path, error: Exception) -> None:
    raise error


def die(path: Path) -> None:
    os._exit(1)


def test_files_are_there_when_the_block_is_left(tmp_path: Path) -> None:
    """In another process, folders included, wherever this one was started."""
    with written_aside([SideFile("one", write_process), SideFile("in/two", write_process)], tmp_path):
        pass
    written = {(tmp_path / name).read_text() for name in ("one", "in/two")}
    assert len(written) == 1
    assert written != {str(os.getpid())}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SpaceError("full")])
def test_an_error_there_is_raised_here(error: Exception, tmp_path: Path) -> None:
    files = [SideFile("a", partial(fail, error=error))]
    with pytest.raises(type(error), match=str(error.args[-1])), written_aside(files, tmp_path):
        pass


def test_a_death_there_is_told_here(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="died"), written_aside([SideFile("a", die)], tmp_path):
        pass


def test_the_process_does_not_outlive_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), written_aside([SideFile("a", write_forever)], tmp_path):
        _interrupted_when_there(tmp_path / "a")
    child = int((tmp_path / "a").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def _interrupted_when_there(path: Path) -> None:
    while not path.exists():
        pass
    raise KeyboardInterrupt


def write_forever(path: Path) -> None:
    scratch = path.with_name("scratch")
    scratch.write_text(str(os.getpid()))
    scratch.rename(path)
    while True:
        pass
