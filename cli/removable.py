"""What a name on the shelf means to `remove`: what goes, what comes free, and how it is done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from llama_convert.cli.entries import INCOMPLETE, cached_commits
from llama_convert.convert.disk import freed, is_locked, on_disk
from llama_convert.convert.errors import UsageError, counted
from llama_convert.convert.made import Leftover, look_at
from llama_convert.convert.readers import unread
from llama_convert.convert.removing import (
    check_leftover,
    plan_removal,
    remove_leftover,
    remove_made,
    removed_folder,
)
from llama_convert.hub.cache import (
    Cache,
    CachedRevision,
    CacheRemoval,
    plan_cache_removal,
    read_cache,
    remove_cached,
    remove_interrupted,
)

_SEE_LIST = "See llama-convert list."


@dataclass(frozen=True, slots=True, kw_only=True)
class Removable:
    """Something that can be removed. what: one line of what it is. files: names that go, as they are shown.

    nbytes: that it takes; freed: that come free. notes: what to know before one says yes. carry_out: removes it.
    rest: where the remainder lies when that is interrupted, if it lies elsewhere then.
    """

    name: str
    what: str
    files: tuple[str, ...]
    nbytes: int
    freed: int
    carry_out: Callable[[], None]
    notes: tuple[str, ...] = ()
    rest: Path | None = None


def find(name: str) -> Removable:
    """What the name means. Raises UsageError: nothing, two things, or nothing that may be removed now."""
    cache = read_cache()
    if name.endswith(INCOMPLETE):
        return _interrupted(name, cache)
    revisions, there = cached_commits(cache, name), os.path.lexists(name)
    if revisions and there:
        raise UsageError(
            f"{name}: is a folder here, and a repository in the cache",
            advice=f"Give ./{name} for the folder, or {name}@{revisions[0].commit[:8]} for the cache.",
        )
    if revisions:
        return _cached(name, revisions)
    return _folder(name) if there else _nothing(name, cache)


def _nothing(name: str, cache: Cache) -> Removable:
    broken = [found for found in cache.broken if found.repository == name]
    if broken:
        raise UsageError(
            f"{name}: damaged, so that the cache's own functions pass it over: {broken[0].problem}",
            advice=f"Download it again to mend it, or delete {broken[0].folder} yourself.",
        )
    raise UsageError(f"{name}: nothing of that name is here or in the cache", advice=_SEE_LIST)


def _cached(name: str, revisions: tuple[CachedRevision, ...]) -> Removable:
    plan = plan_cache_removal(revisions[0].repository, [revision.commit for revision in revisions])
    if any(map(is_locked, plan.locks)):
        raise UsageError(f"{name}: a download of it is running", advice="Wait until it is over.")
    paths = [(revision, path) for revision in revisions for path in revision.files]
    folders = {path.parent for _, path in paths}
    with unread(name, folders):
        pass
    return Removable(
        name=name,
        what=f"{counted(len(revisions), 'revision')} in the cache, which other programs use too",
        files=tuple(f"{revision.commit[:8]} {path.relative_to(revision.snapshot)}" for revision, path in paths),
        nbytes=sum(on_disk(path for _, path in paths).values()),
        freed=freed(plan.names),
        carry_out=partial(_remove_cached, plan, name, folders),
    )


def _remove_cached(plan: CacheRemoval, name: str, folders: Collection[Path]) -> None:
    with unread(name, folders), _undisturbed():
        remove_cached(plan)


def _interrupted(name: str, cache: Cache) -> Removable:
    found = [left for left in cache.interrupted if left.repository + INCOMPLETE == name]
    if not found:
        raise UsageError(f"{name}: no rests of downloads of it are in the cache", advice=_SEE_LIST)
    left = found[0]
    if any(map(is_locked, left.locks)):
        raise UsageError(f"{name}: a download of it is running", advice="Wait until it is over.")
    return Removable(
        name=name,
        what="rests of downloads that did not end",
        files=tuple(path.name for path in left.files),
        nbytes=sum(on_disk(left.files).values()),
        freed=freed(left.files),
        carry_out=partial(remove_interrupted, left),
    )


def _folder(name: str) -> Removable:
    path = Path(name)
    if path.is_symlink():
        raise UsageError(f"{name}: is a link to {path.resolve()}", advice="Give the folder itself.")
    found = look_at(path)
    if isinstance(found, Leftover):
        return _leftover(name, found)
    if found is None:
        raise UsageError(
            f"{name}: not made by llama-convert: there is no conversion.json in it, and no record of a download",
            advice="Delete it yourself if it is not needed.",
        )
    plan = plan_removal(path)
    return Removable(
        name=name,
        what="a download that did not end" if found.to_come else "a folder that llama-convert made",
        files=tuple(str(file.relative_to(path)) for file in plan.names),
        nbytes=sum(on_disk(plan.names).values()),
        freed=freed(plan.names),
        carry_out=partial(remove_made, path),
        notes=tuple(f"{file} was changed since it was written." for file in plan.changed),
        rest=removed_folder(path.resolve()),
    )


def _leftover(name: str, left: Leftover) -> Removable:
    check_leftover(left)
    return Removable(
        name=name,
        what=f"what a killed run left of {left.target.name}",
        files=tuple(str(file.relative_to(left.folder)) for file in left.files),
        nbytes=sum(on_disk(left.files).values()),
        freed=freed(left.files),
        carry_out=partial(remove_leftover, left),
        rest=left.folder,
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Interruptions wait until the block is over: half a repository would be unknown to the cache's own functions."""
    if threading.current_thread() is not threading.main_thread():  # where no signal can be caught
        yield
        return
    waiting: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        waiting.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        raise KeyboardInterrupt
