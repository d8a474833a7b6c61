"""Whether what is to be written fits on the disks it goes to."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_convert.convert.errors import SpaceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A file system. place: a folder on it. needed: bytes that will be written to it. free: bytes it has."""

    place: Path
    needed: int
    free: int

    @property
    def suffices(self) -> bool:
        """Whether all will fit."""
        return self.needed <= self.free


def nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def disks(needs: Mapping[Path, int]) -> tuple[Disk, ...]:
    """The file systems of these places, in their order. needs: bytes that go to each place; it need not exist."""
    found: dict[int, Disk] = {}
    for folder, needed in needs.items():
        there = nearest(folder)
        device = there.stat().st_dev
        before = found.get(device)
        found[device] = Disk(
            place=before.place if before else there,
            needed=needed + (before.needed if before else 0),
            free=shutil.disk_usage(there).free,
        )
    return tuple(found.values())


def check_disks(what: object, found: Sequence[Disk]) -> None:
    """SpaceError, with the figures of each disk that will not do."""
    short = [disk for disk in found if not disk.suffices]
    if short:
        raise SpaceError(
            f"{what}: not enough disk space",
            problems=[
                f"{disk.place}: {disk.needed / 1e9:.2f} GB are needed, {disk.free / 1e9:.2f} GB are free"
                for disk in short
            ],
            advice="Free some space, or choose another disk: download --to DIR, or HF_HOME for the cache.",
        )
