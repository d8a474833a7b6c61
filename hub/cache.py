"""The cache of the Hub's client, as plain data: which revisions of which models, what is broken, what was left.

Everything is read from the cache itself, and changed through its own functions alone. Layout: snapshots of links
into `blobs/`; since version 2 of the client a blob may itself be a link into a store that all repositories share,
with a manifest beside each file of it that lists those links. Source: huggingface_hub utils/_shared_blobs.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.json_files import read_object

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, CachedRevisionInfo, DeleteCacheStrategy, HFCacheInfo

_MODELS = "models--"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedRevision:
    """One commit of a repository. refs: branches and tags that are at it. alone: no other commit of it is cached.

    files: names in the snapshot. missing: what the commit has and the snapshot has not; empty where nobody listed
    the commit's files. last_used: seconds since 1970, when a file was last read.
    """

    repository: str
    commit: str
    refs: tuple[str, ...]
    alone: bool
    snapshot: Path
    files: tuple[Path, ...]
    missing: tuple[str, ...]
    last_used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRepository:
    """A repository that the cache's own functions pass over. problem: why, in their words."""

    repository: str
    folder: Path
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """Files of downloads that did not end. locks: as in CacheRemoval; ours hold them on the files themselves."""

    repository: str
    files: tuple[Path, ...]
    locks: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """What lies in the cache folder."""

    folder: Path
    revisions: tuple[CachedRevision, ...] = ()
    broken: tuple[BrokenRepository, ...] = ()
    interrupted: tuple[Interrupted, ...] = ()


def cache_folder() -> Path:
    """Where the client keeps what it fetches; it may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def read_cache() -> Cache:
    """The models in the cache; nothing where there is no cache. No network."""
    folder, found = cache_folder(), _scan()
    if found is None:
        return Cache(folder=folder)
    models = sorted((repo for repo in found.repos if repo.repo_type == "model"), key=lambda repo: repo.repo_id)
    return Cache(
        folder=folder,
        revisions=tuple(revision for repo in models for revision in _revisions(repo)),
        broken=tuple(_broken(folder, {repo.repo_path for repo in models}, [str(told) for told in found.warnings])),
        interrupted=tuple(_interrupted(folder, [file.file_path for file in found.incomplete_files])),
    )


def _scan() -> HFCacheInfo | None:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return scan_cache_dir(cache_folder())
    except CacheNotFound:
        return None


def _revisions(repo: CachedRepoInfo) -> Iterator[CachedRevision]:
    for revision in sorted(repo.revisions, key=lambda revision: (not revision.refs, revision.commit_hash)):
        files = tuple(sorted(file.file_path for file in revision.files))
        yield CachedRevision(
            repository=repo.repo_id,
            commit=revision.commit_hash,
            refs=tuple(sorted(revision.refs)),
            alone=len(repo.revisions) == 1,
            snapshot=revision.snapshot_path,
            files=files,
            missing=_missing(repo, revision),
            last_used=max((file.blob_last_accessed for file in revision.files), default=repo.last_accessed),
        )


def _missing(repo: CachedRepoInfo, revision: CachedRevisionInfo) -> tuple[str, ...]:
    """By the listing of the commit that the client keeps, where it keeps one."""
    try:
        values = read_object(repo.repo_path / "trees" / f"{revision.commit_hash}.json")
    except (CheckpointError, OSError):
        return ()
    listed = values.get("files")
    there = {file.file_path.relative_to(revision.snapshot_path).as_posix() for file in revision.files}
    return tuple(name for name in listed if name not in there) if isinstance(listed, dict) else ()


def _broken(folder: Path, known: set[Path], warnings: list[str]) -> Iterator[BrokenRepository]:
    for path in sorted(folder.glob(f"{_MODELS}*")):
        if path not in known and _holds_something(path):
            about = re.compile(re.escape(str(path)) + r"(?![\w.-])")
            told = (text.replace(f"{path}{os.sep}", "") for text in warnings if about.search(text))
            yield BrokenRepository(
                repository=_repository(path), folder=path, problem=next(told, "the cache does not know it")
            )


def _holds_something(path: Path) -> bool:
    """Not only the beginnings of a download."""
    blobs = path / "blobs"
    whole = (blob.suffix != ".incomplete" for blob in blobs.iterdir()) if blobs.is_dir() else ()
    return any(whole) or any((path / "snapshots").glob("*/*"))


def _repository(path: Path) -> str:
    return path.name.removeprefix(_MODELS).replace("--", "/")


def _interrupted(folder: Path, files: Iterable[Path]) -> Iterator[Interrupted]:
    by_folder: dict[Path, list[Path]] = {}
    for file in sorted(files):
        by_folder.setdefault(file.parent.parent, []).append(file)
    for path, found in by_folder.items():
        if path.name.startswith(_MODELS):
            yield Interrupted(
                repository=_repository(path), files=tuple(found), locks=(*_locks(folder, path.name), *found)
            )


def _locks(folder: Path, name: str) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob(f".locks/{name}/*.lock")))


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRemoval:
    """What removing revisions would do. names: every name that goes from the disk, links included.

    locks: files that a process holds a lock on (flock) while it fetches a file of the repository.
    """

    repository: str
    commits: tuple[str, ...]
    names: tuple[Path, ...]
    locks: tuple[Path, ...]


def plan_cache_removal(repository: str, commits: Iterable[str]) -> CacheRemoval:
    """What is to go from the cache; nothing is touched."""
    commits, folder = tuple(commits), cache_folder()
    strategy = _strategy(repository, commits)
    names = set(_names(strategy))
    sweeps = hasattr(strategy, "cache_dir")  # version 1 of the client does not know the store, and leaves it alone
    shared = [name for name in names if name.is_symlink() and name.parent.name == "blobs"] if sweeps else []
    gone = {file for name in shared for file in _swept(name, names, folder)}
    parts = tuple(sorted(name for name in names if name.suffix == ".incomplete"))
    return CacheRemoval(
        repository=repository,
        commits=commits,
        names=tuple(sorted(names | gone)),
        locks=_locks(folder, _MODELS + repository.replace("/", "--")) + parts,
    )


def remove_cached(removal: CacheRemoval) -> None:
    """Remove the revisions, by the cache's own function. An interruption can leave a repository broken."""
    _strategy(removal.repository, removal.commits).execute()


def _strategy(repository: str, commits: Iterable[str]) -> DeleteCacheStrategy:
    """A commit may lie in several folders, under the names that a renamed repository had: only one is meant."""
    found = _scan()
    if found is None:
        raise CheckpointError(f"{cache_folder()}: no such folder", advice="See llama-convert list.")
    meant = frozenset(repo for repo in found.repos if (repo.repo_type, repo.repo_id) == ("model", repository))
    return replace(found, repos=meant).delete_revisions(*commits)


def _names(strategy: DeleteCacheStrategy) -> Iterator[Path]:
    yield from strategy.blobs
    yield from strategy.refs
    for folder in (*strategy.repos, *strategy.snapshots):
        yield from (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def _swept(name: Path, going: set[Path], folder: Path) -> tuple[Path, ...]:
    """The shared file behind a link and its manifest, where every link that the manifest lists is going."""
    target = name.resolve()
    manifest = target.with_name(f"{target.name}.refs")
    if not target.is_relative_to(folder / "blobs") or not manifest.is_file():
        return ()
    links = (folder / line for line in manifest.read_text(encoding="utf-8").splitlines())
    kept = [link for link in links if link.is_symlink() and link.resolve() == target and link not in going]
    return () if kept else (target, manifest)


def remove_interrupted(left: Interrupted) -> None:
    """Remove the files that the cache lists as left over; those that are gone by now are no error."""
    for file in left.files:
        file.unlink(missing_ok=True)
