"""Folders that a run reads: `remove` leaves them alone meanwhile.

A reader holds a shared lock (flock) on the folder itself: nothing is written for it, so it works in a cache that only
others may write to. On file systems without such locks nothing is kept from anybody.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llama_convert.convert.errors import UsageError

_LOCKS = Path("/proc/locks")  # where Linux tells who holds which lock


@contextmanager
def reading(*places: Path) -> Iterator[None]:
    """While the block runs, nobody removes the folders of these checkpoints.

    Raises UsageError where one is being removed already.
    """
    with _locked({_folder(place) for place in places}, fcntl.LOCK_SH) as busy:
        if busy:
            raise UsageError(f"{busy[0]}: is being removed now", advice="Give another folder, or fetch it again.")
        yield


@contextmanager
def unread(name: object, folders: Iterable[Path]) -> Iterator[None]:
    """While the block runs, no run of ours begins to read from these folders.

    name: what they are called in the message. Raises UsageError where a run reads one of them already.
    """
    with _locked(set(folders), fcntl.LOCK_EX) as busy:
        if busy:
            who = ", ".join(f"process {number}" for folder in busy for number in _holders(folder))
            raise UsageError(
                f"{name}: {who or 'another process'} reads it now", advice="Wait until that is over, or end it."
            )
        yield


def _folder(place: Path) -> Path:
    return place if place.is_dir() else place.parent


@contextmanager
def _locked(folders: Iterable[Path], kind: int) -> Iterator[list[Path]]:
    """Locks on the folders, as far as there are such; those that others hold so that this one cannot."""
    held: list[int] = []
    busy: list[Path] = []
    try:
        for folder in sorted(folders):
            with suppress(OSError):  # a folder that may not be opened, or is gone; a file system without locks
                held.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
                try:
                    fcntl.flock(held[-1], kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    busy.append(folder)
        yield busy
    finally:
        for descriptor in held:
            os.close(descriptor)


def _holders(folder: Path) -> list[int]:
    """Processes that hold a lock on the folder, where the system tells."""
    status = folder.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    try:
        lines = [line.split() for line in _LOCKS.read_text(encoding="ascii").splitlines()]
    except OSError:
        return []
    found = {int(words[4]) for words in lines if words[1] == "FLOCK" and words[5] == f"{device}:{status.st_ino}"}
    return sorted(number for number in found if number > 0)
