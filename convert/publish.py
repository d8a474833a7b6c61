"""A folder that appears under its name only when it is whole and on disk."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_convert.convert.containers import WEIGHTS
from llama_convert.convert.errors import SpaceError, UsageError

# What a folder must hold to be replaced by --overwrite: a slip of the hand must not cost a home directory.
_MARKS = ("conversion.json", "config.json", "tokenizer.json")
# Bytes beside the weights: a tokenizer.json of Llama 3 has 17 MB.
_SIDE_BYTES = 64 << 20


def partial_folder(folder: Path) -> Path:
    """Where the folder's files lie until they are whole: beside it, so that a rename publishes them."""
    place = folder.resolve()
    return place.parent / f".{place.name}.partial"


def lock_file(folder: Path) -> Path:
    """The file that the run which writes the folder holds a lock on; a killed run leaves it."""
    return partial_folder(folder).with_suffix(".lock")


def check_destination(folder: Path, sources: Path, nbytes: int, *, overwrite: bool) -> None:
    """Whether the output may be written and will fit; nothing is created.

    Raises UsageError: it exists (unless empty or to be overwritten), it is the source, or holds it. SpaceError:
    the disk has no `nbytes` bytes free, old output included: that is removed only at the end.
    """
    if folder.suffix in WEIGHTS:  # formats of one file are written into a folder too: other files lie beside it
        raise UsageError(
            f"{folder}: has the name of a file, wanted that of a folder",
            advice=f"Give {folder.with_suffix('')}: the weights will be a file in it.",
        )
    target, source = folder.resolve(), sources.resolve()
    if target == source or target in source.parents:
        raise UsageError(f"{folder}: this is the source, or holds it", advice="Give another folder for the output.")
    place = next(path for path in (target, *target.parents) if path.exists())
    if not place.is_dir():
        raise UsageError(f"{place}: exists and is no folder", advice="Give another name for the output.")
    _check_existing(folder, overwrite=overwrite)
    check_space(folder, nbytes + _SIDE_BYTES)


def _check_existing(folder: Path, *, overwrite: bool) -> None:
    held = [path.name for path in folder.iterdir()] if folder.exists() else []
    if held and not overwrite:
        raise UsageError(
            f"{folder}: exists and is not empty", advice="Give another folder, or --overwrite to replace it at the end."
        )
    if held and not set(held) & set(_MARKS):
        raise UsageError(
            f"{folder}: holds no model ({', '.join(sorted(held)[:3])}, ...), so --overwrite leaves it alone",
            advice="Remove it yourself, or give another folder.",
        )


def check_space(folder: Path, nbytes: int) -> None:
    """SpaceError where the folder's disk has not so many bytes free."""
    place = next(parent for parent in folder.resolve().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < nbytes:
        raise SpaceError(
            f"{place}: {nbytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            advice="Free some space, or choose another disk.",
        )


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of `folder` when the block ends well.

    All files are synced first; an existing folder is replaced at that moment. On any error or interruption
    the fresh folder is removed and `folder` is as it was. A leftover of a killed run is removed at the start.
    Raises UsageError while another run is writing to the same place.
    """
    folder, partial = folder.resolve(), partial_folder(folder)
    with exclusive(folder):
        _recover(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            _sync(partial)
            _replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """While the block runs, no other run of ours writes the folder or removes it.

    Raises UsageError where one does so already.
    """
    path = lock_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A run that ends removes the file: the lock may be on one that is no longer there.
            mine = path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except OSError:
            mine = False
        if not mine:
            raise UsageError(f"{folder}: another run is writing it now", advice="Wait for it, or give another folder.")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def replaced_folder(folder: Path) -> Path:
    """Where an old folder lies for the moment in which a new one takes its place."""
    return folder.parent / f".{folder.name}.replaced"


def _recover(folder: Path) -> None:
    """What a run left that was killed while it replaced the folder: the old one, if the new one is not there."""
    old = replaced_folder(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True):
        sync_path(path)
    sync_path(folder)


def sync_path(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(partial: Path, folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        partial.rename(folder)
    else:
        old = replaced_folder(folder)
        try:
            folder.rename(old)
            partial.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old)
    sync_path(folder.parent)
