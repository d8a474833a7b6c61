"""The cache of the Hub's client, in the client's own layout: what is found in it, and how files are added.

`models--ORGANISATION--NAME/` holds `blobs/DIGEST`, relative links to them in `snapshots/COMMIT/PATH`, commits of
branches in `refs/`, listings of commits in `trees/COMMIT.json`. A blob may be a link into a store that repositories
share, so none is ever written through. Sources: huggingface_hub file_download.py, _tree_cache.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from llama_convert.hub.checked import same_size
from llama_convert.hub.repository import RemoteEntry, RepositoryName, Snapshot
from llama_convert.hub.small_files import read_values, write_text

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGE = re.compile(r"[0-9a-f]{64}")
_TREE_VERSION = 1
_MAIN = "main"
_PATIENCE = 0.2  # seconds before a wait is told


def cache_root() -> Path:
    """Where the client keeps what it fetched: HF_HUB_CACHE."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def repository_folder(repository: str) -> Path:
    """The repository's folder in the cache; it need not exist."""
    return cache_root() / f"models--{repository.replace('/', '--')}"


def snapshot_folder(repository: str, commit: str) -> Path:
    """Where the files of a commit lie under their names."""
    return repository_folder(repository) / "snapshots" / commit


def blobs(repository: str, digest: str) -> tuple[Path, ...]:
    """Where a file of this digest may lie: the repository's own blob, then those of other repositories."""
    own = repository_folder(repository) / "blobs" / digest
    return (own, *sorted(path for path in cache_root().glob(f"models--*/blobs/{digest}") if path != own))


def held(repository: str, entry: RemoteEntry) -> Path | None:
    """A file of the entry's digest and size that is here, by its name: its bytes are not held against that."""
    return next((path.absolute() for path in blobs(repository, entry.digest) if same_size(path, entry)), None)


def lock_path(repository: str, digest: str) -> Path:
    """The client's lock for a blob."""
    return cache_root() / ".locks" / repository_folder(repository).name / f"{digest}.lock"


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """The client's lock, held; on_wait is called where another process has it, then it is waited for."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(path, timeout=_PATIENCE))
        except TimeoutError:
            on_wait()
            held.enter_context(WeakFileLock(path))
        yield


def commit_of(name: RepositoryName) -> str | None:
    """The commit that the cache knows the revision by; None where it knows none."""
    revision = name.revision or _MAIN
    if _COMMIT.fullmatch(revision):
        return revision
    path = repository_folder(name.repository) / "refs" / revision
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def stored_snapshot(name: RepositoryName) -> Snapshot | None:
    """The repository as the cache knows it, without asking the Hub; None where it does not.

    Its files are those of the commit's listing; without one, those that lie there.
    """
    commit = commit_of(name)
    folder = snapshot_folder(name.repository, commit) if commit else None
    if commit is None or folder is None or not folder.is_dir():
        return None
    listed = _listed(repository_folder(name.repository), commit)
    return Snapshot(
        asked=name,
        repository=name.repository,
        commit=commit,
        entries=listed if listed is not None else tuple(_linked(folder)),
        gated=False,
        licence=None,
    )


def is_listed(snapshot: Snapshot) -> bool:
    """Whether the cache knows all files of the commit, not only those that lie there."""
    return _listed(repository_folder(snapshot.repository), snapshot.commit) is not None


def _listed(folder: Path, commit: str) -> tuple[RemoteEntry, ...] | None:
    values = read_values(_tree_path(folder, commit))
    if values.get("format_version") != _TREE_VERSION:
        return None
    try:
        return tuple(_entry(path, entry) for path, entry in values["files"].items())
    except (KeyError, TypeError, AttributeError):
        return None


def _entry(path: str, values: dict[str, Any]) -> RemoteEntry:
    sha256 = values.get("lfs_sha256")
    return RemoteEntry(
        path=path,
        size=values["size"],
        sha256=sha256,
        git_sha1=None if sha256 else values["blob_id"],
        xet_hash=values.get("xet_hash"),
    )


def _linked(folder: Path) -> Iterator[RemoteEntry]:
    """What the links of a snapshot say: a blob's name is its digest."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_file():
            digest = Path(os.readlink(path)).name
            large = _LARGE.fullmatch(digest) is not None
            yield RemoteEntry(
                path=path.relative_to(folder).as_posix(),
                size=path.stat().st_size,
                sha256=digest if large else None,
                git_sha1=None if large else digest,
            )


def write_listing(folder: Path, snapshot: Snapshot) -> None:
    """What the commit holds, as `trees/COMMIT.json` in the folder: lets the client tell offline what is missing."""
    path = _tree_path(folder, snapshot.commit)
    if _listed(folder, snapshot.commit) is None:
        files = {entry.path: _values(entry) for entry in sorted(snapshot.entries, key=lambda entry: entry.path)}
        write_text(path, json.dumps({"format_version": _TREE_VERSION, "files": files}, indent=1))


def _tree_path(folder: Path, commit: str) -> Path:
    return folder / "trees" / f"{commit}.json"


def _values(entry: RemoteEntry) -> dict[str, Any]:
    large = {"lfs_sha256": entry.sha256, "lfs_size": entry.size} if entry.sha256 else {}
    xet = {"xet_hash": entry.xet_hash} if entry.xet_hash else {}
    return {"size": entry.size, "blob_id": entry.git_sha1 or _pointer_sha1(entry), **large, **xet}


def _pointer_sha1(entry: RemoteEntry) -> str:
    """The SHA-1 of what git stores in place of a large file."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{entry.sha256}\nsize {entry.size}\n".encode()
    return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()


def link(snapshot: Snapshot, entry: RemoteEntry) -> None:
    """Give a blob that is there its name in the snapshot, as a relative link."""
    folder = snapshot_folder(snapshot.repository, snapshot.commit)
    path = folder / entry.path
    target = os.path.relpath(repository_folder(snapshot.repository) / "blobs" / entry.digest, path.parent)
    if path.is_symlink() and os.readlink(path) == target:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)


def point(snapshot: Snapshot) -> str | None:
    """Let the branch lead to the commit, if nothing is lost by that; else the commit that it still leads to.

    What the older commit has here and the newer one has unchanged is linked there too. Where some of it was
    changed and not fetched, the branch stays: what could be loaded offline still can be.
    """
    revision = snapshot.asked.revision or _MAIN
    known = commit_of(RepositoryName(repository=snapshot.repository, revision=revision))
    if snapshot.commit in (revision, known):
        return None
    if known is not None and not _carried_over(snapshot, known):
        return known
    write_text(repository_folder(snapshot.repository) / "refs" / revision, snapshot.commit)
    return None


def _carried_over(snapshot: Snapshot, known: str) -> bool:
    """Whether the new commit has all that the known one has here and the repository has still."""
    now = {entry.path: entry for entry in snapshot.entries}
    older = {entry.path: entry for entry in _linked(snapshot_folder(snapshot.repository, known))}
    new = snapshot_folder(snapshot.repository, snapshot.commit)
    kept = [now[path] for path, entry in older.items() if path in now and now[path].digest == entry.digest]
    for entry in kept:
        link(snapshot, entry)
    return all((new / path).exists() for path in older if path in now)
