"""The shelf: what the cache holds and what was made here, as one list."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from llama_convert.convert.disk import Inode, is_locked, on_disk, together
from llama_convert.convert.errors import counted
from llama_convert.convert.made import Leftover, Made, Verdict, find_made
from llama_convert.convert.origin import Origin
from llama_convert.convert.places import Contents, look_into
from llama_convert.hub.cache import BrokenRepository, Cache, CachedRevision, Interrupted, read_cache

INCOMPLETE = "@incomplete"  # behind a repository's name: the rests of its downloads
_DIGITS = 8  # of a commit, where a name needs one
_LEFT_BY = {
    "partial": "not finished: left by a killed run",
    "replaced": "the old folder: left by a run that was killed while it replaced it",
    "removed": "half removed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing on the shelf.

    kind: cached, made, leftover, broken. contents: None until the folder was looked into. expected: its files by
    whoever listed them; missing: those that are not there; changed: those that have another size.
    state: what is to be known of all of it, "" for nothing.
    """

    name: str
    kind: str
    path: Path
    files: tuple[Path, ...]
    inodes: Mapping[Inode, int]
    contents: tuple[Contents, ...] | None = ()
    origin: Origin | None = None
    refs: tuple[str, ...] = ()
    source: str | None = None
    verdict: Verdict | None = None
    last_used: float | None = None
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    state: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes on disk, what it holds twice counted once."""
        return sum(self.inodes.values())

    def state_of(self, contents: Contents) -> str:
        """What is wrong with one of its checkpoints, or "" for nothing."""
        here = [name for name in self.missing if _lies_in(name, contents.place)]
        if contents.foreign:
            return f"not a Llama: {contents.problem}"
        if here and (contents.problem or self.kind != "cached"):  # of a repository only one format may be wanted
            return f"incomplete: {counted(len(here), 'file')} missing"
        if contents.problem:
            return f"damaged: {contents.problem}"
        return f"changed since it was written: {', '.join(self.changed)}" if self.changed else ""

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "name": self.name,
            "kind": self.kind,
            "path": str(self.path.absolute()),
            "nbytes": self.nbytes,
            "checkpoints": [{**asdict(contents), "state": self.state_of(contents)} for contents in self.contents or ()],
            "source": {
                "repository": self.origin.repository if self.origin else None,
                "commit": self.origin.commit if self.origin else None,
                "refs": list(self.refs),
                "folder": self.source,
            },
            "verified": asdict(self.verdict) if self.verdict else None,
            "last_used": _date(self.last_used),
            "missing": list(self.missing),
            "state": self.state,
        }


def _lies_in(name: str, place: str) -> bool:
    folder = PurePosixPath(place).parent if PurePosixPath(place).suffix == ".gguf" else PurePosixPath(place)
    return PurePosixPath(name).parent == folder


def _date(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """All entries. problems: folders that could not be read, one sentence each."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = field(default=())


def read_shelf(folders: Sequence[Path]) -> Shelf:
    """What the cache holds and what is below the folders; nothing is opened but records. Raises UsageError."""
    cache = read_cache()
    found = find_made(folders, {cache.folder})
    cached = [*map(_cached, cache.revisions), *map(_broken, cache.broken), *map(_interrupted, cache.interrupted)]
    taken = {entry.name for entry in cached} | {revision.repository for revision in cache.revisions}
    items: tuple[Made | Leftover, ...] = (*found.made, *found.leftovers)
    made = [_or_problem(item) for item in items]
    return Shelf(
        entries=(*cached, *(_told_apart(entry, taken) for entry in made if isinstance(entry, Entry))),
        problems=(*found.problems, *(entry for entry in made if isinstance(entry, str))),
    )


def _or_problem(item: Made | Leftover) -> Entry | str:
    try:
        return made_entry(item) if isinstance(item, Made) else leftover_entry(item)
    except OSError as error:
        return f"{error.filename or item.folder}: {error.strerror}"


def _told_apart(entry: Entry, taken: set[str]) -> Entry:
    """A folder that has the name of a cached repository is called ./NAME."""
    return replace(entry, name=f".{os.sep}{entry.name}") if entry.name in taken else entry


def looked_into(entry: Entry) -> Entry:
    """The entry with its checkpoints, opened where no record tells them."""
    if entry.contents is not None:
        return entry
    try:
        found = look_into(entry.path)
    except OSError as error:
        return replace(entry, contents=(), state=f"unreadable: {error.filename or entry.path}: {error.strerror}")
    if found or entry.state:
        return replace(entry, contents=found)
    missing = f"incomplete: {counted(len(entry.missing), 'file')} missing" if entry.missing else "no checkpoint in it"
    return replace(entry, contents=(), state=missing)


def _cached(revision: CachedRevision) -> Entry:
    return Entry(
        name=revision.repository + ("" if revision.alone else f"@{revision.commit[:_DIGITS]}"),
        kind="cached",
        path=revision.snapshot,
        files=revision.files,
        inodes=on_disk(revision.files),
        contents=None,
        origin=Origin(repository=revision.repository, commit=revision.commit),
        refs=revision.refs,
        last_used=revision.last_used,
        missing=revision.missing,
    )


def _broken(found: BrokenRepository) -> Entry:
    files = tuple(path for path in found.folder.rglob("*") if path.is_file())
    return Entry(
        name=found.repository,
        kind="broken",
        path=found.folder,
        files=files,
        inodes=on_disk(files),
        state=f"damaged: {found.problem}",
    )


def _interrupted(found: Interrupted) -> Entry:
    running = any(map(is_locked, found.locks))
    return Entry(
        name=found.repository + INCOMPLETE,
        kind="leftover",
        path=found.files[0].parent,
        files=found.files,
        inodes=on_disk(found.files),
        state="being downloaded now" if running else "downloads that did not end",
    )


def made_entry(made: Made) -> Entry:
    """A folder with a record of ours."""
    missing, changed = made.differing()
    read = [path.stat().st_atime for name in made.recorded if (path := made.folder / name).is_file()]
    return Entry(
        name=str(made.folder),
        kind="made",
        path=made.folder,
        files=made.files,
        inodes=on_disk(made.files),
        contents=(made.contents,) if made.contents else None,
        origin=made.origin,
        source=made.source,
        verdict=made.verdict,
        last_used=max(read, default=None),
        missing=missing,
        changed=changed,
        state=_state_of_made(made),
    )


def _state_of_made(made: Made) -> str:
    if made.problem:
        return f"damaged: {made.problem}"
    if not made.to_come:
        return ""
    return "being downloaded now" if made.is_filled() else "a download that did not end"


def leftover_entry(left: Leftover) -> Entry:
    """What a killed run left, or a run that is not over has."""
    return Entry(
        name=str(left.folder),
        kind="leftover",
        path=left.folder,
        files=left.files,
        inodes=on_disk(left.files),
        state="being written now" if left.in_use else _LEFT_BY[left.kind],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A file system. nbytes: what the shelf takes of it, shared files counted once. free, total: of all of it."""

    mount: Path
    nbytes: int
    free: int
    total: int


def disks(entries: Sequence[Entry]) -> tuple[Disk, ...]:
    """The file systems that the entries lie on."""
    places = {path.stat().st_dev: path.resolve() for path in _existing(entries)}
    totals = together(entry.inodes for entry in entries)
    return tuple(_disk(_mount(places[device]), nbytes) for device, nbytes in sorted(totals.items()))


def _existing(entries: Iterable[Entry]) -> Iterator[Path]:
    return (path for entry in entries for path in entry.files if path.exists())


def _mount(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.is_mount() or place == place.parent)


def _disk(mount: Path, nbytes: int) -> Disk:
    usage = shutil.disk_usage(mount)
    return Disk(mount=mount, nbytes=nbytes, free=usage.free, total=usage.total)


def shared(entry: Entry, entries: Iterable[Entry]) -> int:
    """Bytes of the entry that others hold as well."""
    others = {inode for other in entries if other is not entry for inode in other.inodes}
    return sum(nbytes for inode, nbytes in entry.inodes.items() if inode in others)


def cached_commits(cache: Cache, name: str) -> tuple[CachedRevision, ...]:
    """The revisions that a name means: all of `organisation/name`, or of `organisation/name@commit` those it begins."""
    repository, _, revision = name.partition("@")
    return tuple(
        found
        for found in cache.revisions
        if found.repository == repository and (found.commit.startswith(revision) or revision in found.refs)
    )
