"""The command as a process of its own: what it imports, and what interruptions and kills leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.commands import Result, leftovers

Source = Callable[..., Path]
Run = Callable[..., Result]

IMPORTS = """
import sys
from llama_convert.cli import main
status = main(sys.argv[2:])
found = [name for name in sys.argv[1].split(",") if name in sys.modules]
sys.exit(f"imported: {found}" if found else status)
"""

# Runs the command, stops at one moment, says so, and waits there to be interrupted.
STOPPING = """
import os, sys, time
from contextlib import contextmanager
from pathlib import Path

import llama_convert.convert as convert
from llama_convert.cli import main
from llama_convert.cli.output import Output

moment, seen = sys.argv[1], 0

def stop():
    print("stopped", flush=True)
    for _ in range(6000):  # not one long sleep: a signal that comes just before it would wait for its end
        time.sleep(0.01)

def stopping(function):
    def wrapped(*arguments, **options):
        stop()
        return function(*arguments, **options)
    return wrapped

@contextmanager
def progress(self, total, what):
    def update(nbytes):
        global seen
        seen += nbytes
        if moment == "first bytes" or moment == "half" and seen > total / 2:
            stop()
    yield update

Output.progress = progress
if moment == "planning":
    convert.plan_conversion = stopping(convert.plan_conversion)
if moment == "syncing":
    os.fsync = stopping(os.fsync)
if moment == "replacing":
    rename = Path.rename
    Path.rename = lambda path, target: (stop() if path.name.endswith(".partial") else None, rename(path, target))[1]
sys.exit(main(sys.argv[2:]))
"""


@contextmanager
def stopped(moment: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command, waiting at this moment; killed at the end of the block where it still runs."""
    command = [sys.executable, "-c", STOPPING, moment, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stopped\n", process.communicate()[1]
            yield process
        finally:
            process.kill()


def test_help_is_fast_and_loads_no_library() -> None:
    heavy = "torch,huggingface_hub,transformers,tokenizers,sentencepiece,tiktoken,safetensors,tqdm"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", IMPORTS, heavy, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "convert" in done.stdout
    assert time.monotonic() - start < 3, "half a second on an idle machine"


def test_a_conversion_that_casts_nothing_does_without_torch(source: Source, output: Path) -> None:
    heavy = "torch,huggingface_hub,transformers,tokenizers,sentencepiece"
    command = [sys.executable, "-c", IMPORTS, heavy, "convert", str(source("3-2shards")), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (output / "model.safetensors").exists()


def test_the_installed_command(source: Source, output: Path) -> None:
    command = Path(sys.executable).with_name("llama-convert")
    done = subprocess.run(
        [command, "convert", source("3-2shards"), output, "--dtype", "int8"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("llama-convert: --dtype int8: ")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["planning", "first bytes", "half", "syncing"])
def test_an_interruption_leaves_nothing(source: Source, output: Path, moment: str, kind: signal.Signals) -> None:
    with stopped(moment, "convert", source("3-2shards"), output) as process:
        assert (leftovers(output) == []) is (moment == "planning")
        process.send_signal(kind)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "llama-convert: interrupted"
    assert "Traceback" not in err
    assert leftovers(output) == []
    if moment != "planning":
        partial = output.parent / ".output.partial"
        assert f"Nothing was written to {output}; the partial folder {partial} is removed." in err


@pytest.mark.parametrize("moment", ["half", "syncing", "replacing"])
def test_an_interrupted_overwrite_leaves_the_old_model(source: Source, run: Run, output: Path, moment: str) -> None:
    folder = source("3-2shards")
    assert run("convert", folder, output).status == 0
    (output / "stray.txt").write_text("of the old model")
    with stopped(moment, "convert", folder, output, "--overwrite") as process:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert (output / "stray.txt").exists()
    assert leftovers(output) == ["output"]


def test_a_killed_run_leaves_no_output_and_the_next_one_succeeds(source: Source, run: Run, output: Path) -> None:
    folder = source("3-2shards")
    with stopped("half", "convert", folder, output) as process:
        process.kill()
        process.wait()
    assert not output.exists()
    assert ".output.partial" in leftovers(output)
    (output.parent / ".output.partial" / "stray.txt").write_text("of the killed run")
    assert run("convert", folder, output).status == 0
    assert leftovers(output) == ["output"]
    assert not (output / "stray.txt").exists()


def test_a_run_killed_while_replacing_loses_no_model(source: Source, run: Run, output: Path) -> None:
    """Between the two renames the old model has another name: the next run that fails puts it back."""
    folder = source("3-2shards")
    assert run("convert", folder, output).status == 0
    with stopped("replacing", "convert", folder, output, "--overwrite") as process:
        process.kill()
        process.wait()
    assert not output.exists()
    with stopped("half", "convert", folder, output) as process:
        assert (output / "model.safetensors").exists()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert leftovers(output) == ["output"]


def test_two_runs_at_once(source: Source, run: Run, output: Path) -> None:
    folder = source("3-2shards")
    with stopped("half", "convert", folder, output):
        before = leftovers(output)
        result = run("convert", folder, output)
        assert result.status == 2
        assert f"llama-convert: {output}: another run is writing it now" in result.err
        assert leftovers(output) == before


def test_the_reader_of_a_pipe_may_leave(source: Source) -> None:
    """As in `llama-convert inspect --tensors | head -1`: no traceback."""
    command = [Path(sys.executable).with_name("llama-convert"), "inspect", source("3-2shards"), "--tensors"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
