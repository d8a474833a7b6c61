"""Bytes on disk, each inode counted once however many names it has."""

from __future__ import annotations

import fcntl
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

# Device and number: what the names of one file have in common.
Inode: TypeAlias = tuple[int, int]
_BLOCK = 512  # bytes; the unit of st_blocks, whatever the disk's own is


def files_below(folder: Path) -> Iterator[Path]:
    """Every file and every link below the folder, in order; links to folders are not followed.

    Raises OSError for a folder that cannot be read: what is not seen must not be taken for absent.
    """
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders.sort()
        found = [*names, *(name for name in folders if os.path.islink(os.path.join(place, name)))]
        yield from (Path(place, name) for name in sorted(found))


def _raise(error: OSError) -> None:
    raise error


def on_disk(paths: Iterable[Path]) -> dict[Inode, int]:
    """Bytes that the files take on their disks, by inode; links count as what they lead to, broken ones as nothing."""
    found = {}
    for path in paths:
        if path.exists():
            status = path.stat()
            found[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    return found


def freed(names: Iterable[Path]) -> int:
    """Bytes that come free when all these names go: of files that have no name elsewhere."""
    count: Counter[Inode] = Counter()
    known: dict[Inode, os.stat_result] = {}
    for name in set(names):
        status = name.lstat()
        if stat.S_ISREG(status.st_mode):
            count[status.st_dev, status.st_ino] += 1
            known[status.st_dev, status.st_ino] = status
    return sum(known[inode].st_blocks * _BLOCK for inode in count if count[inode] == known[inode].st_nlink)


def together(entries: Iterable[Mapping[Inode, int]]) -> dict[int, int]:
    """Bytes of all entries by device, what several share counted once."""
    everything: dict[Inode, int] = {}
    for entry in entries:
        everything |= entry
    totals: dict[int, int] = {}
    for (device, _), nbytes in everything.items():
        totals[device] = totals.get(device, 0) + nbytes
    return totals


@contextmanager
def unnoticed(paths: Iterable[Path]) -> Iterator[None]:
    """When the block ends the files were last read when they were before: to look at a model is not to use it.

    Files of other users keep what the disk noted.
    """
    before = {path: path.stat() for path in paths if path.exists()}
    try:
        yield
    finally:
        for path, status in before.items():
            with suppress(OSError):
                _set_read(path, status)


def _set_read(path: Path, before: os.stat_result) -> None:
    now = path.stat()
    if now.st_atime_ns != before.st_atime_ns and now.st_mtime_ns == before.st_mtime_ns:
        os.utime(path, ns=(before.st_atime_ns, now.st_mtime_ns))


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock (flock) on the file; False where there is no such file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
