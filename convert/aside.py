"""Small files written by a process of its own, beside the moving of the weights.

Converting Llama 3's tokenizer keeps an interpreter busy for most of a second. In a thread it would take turns
with the threads that move bytes and slow both down: measured, the weights took four times as long.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from llama_convert.convert.outputs import SideFile

# The parent's module path first: the child must find the very same modules, wherever it was started.
_CHILD = "import pickle, sys; sys.path = pickle.load(sys.stdin.buffer); from {} import serve; serve()"


@contextmanager
def written_aside(files: Sequence[SideFile], folder: Path) -> Iterator[None]:
    """Write the files into the folder while the block runs; all are there when it is left.

    Raises what writing them raises. The child does not outlive the block.
    """
    with TemporaryFile() as task, _started(task, files, folder) as child:
        try:
            yield
            _raise_failure(child)
        finally:
            child.kill()


def _started(task: IO[bytes], files: Sequence[SideFile], folder: Path) -> subprocess.Popen[bytes]:
    # A file, not a pipe: nobody waits for the child to start reading.
    for value in (sys.path, (tuple(files), folder.resolve())):
        pickle.dump(value, task)
    task.seek(0)
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(__name__)],
        stdin=task,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interruption is the parent's to handle
    )


def _raise_failure(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout
    answer = child.stdout.read()
    failure = pickle.loads(answer) if answer else RuntimeError("the process that writes the small files died")
    if failure is not None:
        raise failure


def serve() -> None:
    """The child's side: read what to write, write it, answer with the error or None."""
    gc.disable()  # a quarter of the time of a tokenizer's conversion, to free nothing: the process ends with it
    files, folder = pickle.load(sys.stdin.buffer)
    failure: Exception | None = None
    try:
        write_side_files(files, folder)
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        failure = error
    sys.stdout.buffer.write(pickle.dumps(failure))
    sys.stdout.flush()
    os._exit(0)


def write_side_files(files: Sequence[SideFile], folder: Path) -> None:
    """Write each file at its place under the folder."""
    for file in files:
        path = folder / file.name
        path.parent.mkdir(exist_ok=True)
        file.write(path)
