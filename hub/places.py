"""Where a download goes: the cache of the Hub's client, or a folder of the user's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.hub import client_cache
from llama_convert.hub.repository import RemoteEntry, Snapshot
from llama_convert.hub.small_files import read_values, write_text

_RECORD = Path(".cache", "llama-convert", "download.json")
_CLIENT = Path(".cache", "huggingface")


class Place(Protocol):
    """What both kinds of places can do. root: the folder that becomes the repository's root."""

    @property
    def root(self) -> Path: ...

    def target(self, entry: RemoteEntry) -> Path:
        """Where the bytes of the file go."""

    def lock(self, entry: RemoteEntry) -> Path:
        """The client's lock for it."""

    def may_share(self, entry: RemoteEntry) -> bool:
        """Whether it may be a second name of a file in the cache."""

    def begin(self, entries: Sequence[RemoteEntry]) -> None:
        """Before the first byte of these files."""

    def settle(self, entry: RemoteEntry) -> None:
        """The file is there and whole."""

    def finish(self) -> str | None:
        """All files are there. What the user should know of it, as one sentence."""


@dataclass(frozen=True, slots=True)
class CachePlace:
    """The client's cache: any program that uses it finds the files, offline too."""

    snapshot: Snapshot

    @property
    def root(self) -> Path:
        return client_cache.snapshot_folder(self.snapshot.repository, self.snapshot.commit)

    @property
    def _folder(self) -> Path:
        return client_cache.repository_folder(self.snapshot.repository)

    def target(self, entry: RemoteEntry) -> Path:
        return self._folder / "blobs" / entry.digest

    def lock(self, entry: RemoteEntry) -> Path:
        return client_cache.lock_path(self.snapshot.repository, entry.digest)

    def may_share(self, entry: RemoteEntry) -> bool:
        del entry  # nothing in a cache is written to again
        return True

    def begin(self, entries: Sequence[RemoteEntry]) -> None:
        del entries  # the links of the snapshot tell which are there
        client_cache.write_listing(self._folder, self.snapshot)

    def settle(self, entry: RemoteEntry) -> None:
        client_cache.link(self.snapshot, entry)

    def finish(self) -> str | None:
        older = client_cache.point(self.snapshot)
        if older is None:
            return None
        snapshot = self.snapshot
        return (
            f"Offline, {snapshot.asked} is still commit {older}: the cache holds files of it that were not fetched of "
            f"this one, which is {snapshot.repository}@{snapshot.commit}."
        )


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """A folder with the repository's paths. weights: paths of the files that nobody changes where they lie.

    A record in it tells from the beginning which files came (`files`), which are yet to come (`to_come`), and which
    are of a commit that lay there before (`earlier`).
    """

    root: Path
    snapshot: Snapshot
    weights: frozenset[str]

    def target(self, entry: RemoteEntry) -> Path:
        return self.root / entry.path

    def lock(self, entry: RemoteEntry) -> Path:
        return self._metadata(entry).with_suffix(".lock")

    def may_share(self, entry: RemoteEntry) -> bool:
        return entry.path in self.weights

    def begin(self, entries: Sequence[RemoteEntry]) -> None:
        """What of another commit is the same in this one has come; the rest of it is from before."""
        now = {entry.path: _record(entry) for entry in self.snapshot.entries}
        with self._noting() as told:
            came = told["files"]
            told["files"] = {path: values for path, values in came.items() if now.get(path) == values}
            told["earlier"] |= {path: values for path, values in came.items() if path not in told["files"]}
            awaited = {entry.path: _record(entry) for entry in entries if entry.path not in told["files"]}
            told["to_come"] = {**(told["to_come"] if self._is_same(told) else {}), **awaited}
            told |= {"repository": self.snapshot.repository, "commit": self.snapshot.commit}
        client_cache.write_listing(self.root / _CLIENT, self.snapshot)

    def settle(self, entry: RemoteEntry) -> None:
        """Tell the client which file this is: commit, ETag, and the time at which that was so."""
        write_text(self._metadata(entry), f"{self.snapshot.commit}\n{entry.digest}\n{time.time()}\n")
        with self._noting() as told:
            for gone in ("to_come", "earlier"):
                told[gone].pop(entry.path, None)
            told["files"][entry.path] = _record(entry)

    @contextmanager
    def _noting(self) -> Iterator[dict[str, Any]]:
        """The record, to be changed in the block; another process waits meanwhile."""
        path = self.root / _RECORD
        with client_cache.locked(path.with_suffix(".lock")):
            before = read_values(path)
            told = {"repository": None, "commit": None, **before}
            told |= {part: dict(told.get(part, {})) for part in ("files", "to_come", "earlier")}
            yield told
            if told != before:
                told["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
                told["files"] = dict(sorted(told["files"].items()))
                write_text(path, json.dumps(told, indent=2) + "\n")

    def _is_same(self, told: Mapping[str, Any]) -> bool:
        return (told["repository"], told["commit"]) == (self.snapshot.repository, self.snapshot.commit)

    def _metadata(self, entry: RemoteEntry) -> Path:
        return self.root / _CLIENT / "download" / f"{entry.path}.metadata"

    def finish(self) -> str | None:
        return None


def find_place(snapshot: Snapshot, to: Path | None, entries: Sequence[RemoteEntry], weights: Sequence[str]) -> Place:
    """The place for these files: the folder `to`, or the cache.

    Raises CheckpointError: a name that leads out of the place. UsageError: `to` is no folder.
    """
    outside = [entry.path for entry in entries if _leads_out(entry.path)]
    if outside:
        raise CheckpointError(
            f"{snapshot.repository}: names of files that lead out of the folder",
            problems=[repr(path) for path in outside],
            advice="Do not use this repository: its owner made them on purpose.",
        )
    if to is None:
        return CachePlace(snapshot)
    above = next(path for path in (to.absolute(), *to.absolute().parents) if path.exists())
    if not above.is_dir():
        raise UsageError(f"{above}: exists and is no folder", advice="Give another name to --to.")
    return FolderPlace(to, snapshot, frozenset(weights))


def _leads_out(path: str) -> bool:
    parts = path.replace("\\", "/").split("/")
    anchored = PurePosixPath(path).anchor or PureWindowsPath(path).anchor or "\0" in path
    return bool(anchored) or any(part in ("", ".", "..") for part in parts)


def _record(entry: RemoteEntry) -> dict[str, Any]:
    return {"size": entry.size, "sha256" if entry.sha256 else "git_sha1": entry.digest}
