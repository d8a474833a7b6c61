"""What the fake Hub stores: blobs, commits and repositories."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

LFS_THRESHOLD = 1024  # bytes; so low that tiny test weights take the route of large files
LFS_SUFFIXES = (".pth", ".safetensors", ".gguf", ".bin")
_PIECE = 1 << 20


@dataclass(frozen=True)
class Blob:
    """A file's bytes, in memory or on disk; `data` None: only its digest is known (uploaded by Xet)."""

    data: bytes | Path | None
    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes | Path) -> Blob:
        """The blob of these bytes; a file is read once, in pieces, for its digest."""
        digest = hashlib.sha256()
        size = 0
        for piece in _pieces(data):
            digest.update(piece)
            size += len(piece)
        return cls(data, size, digest.hexdigest())

    @cached_property
    def git_sha1(self) -> str:
        """Git's name for these bytes."""
        digest = hashlib.sha1(b"blob %d\0" % self.size)
        for piece in _pieces(self.data or b""):
            digest.update(piece)
        return digest.hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git stores in place of a large file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    def read(self) -> bytes:
        """The whole content."""
        return b"".join(_pieces(self.data or b""))


def _pieces(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    file: BinaryIO
    with data.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def is_lfs(path: str, size: int) -> bool:
    """Whether the file is stored outside git, and so answered by the CDN."""
    return path.endswith(LFS_SUFFIXES) or size > LFS_THRESHOLD


def remote_oid(path: str, blob: Blob) -> str:
    """The digest by which the Hub knows the file: sha256 of large files, git's sha1 of small ones."""
    return blob.sha256 if is_lfs(path, blob.size) else blob.git_sha1


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    oid: str
    title: str
    files: Mapping[str, Blob]


@dataclass
class PullRequest:
    """A pull request; its commits are at `refs/pr/NUMBER`. status: open, draft, closed or merged."""

    number: int
    title: str
    author: str
    status: str = "open"


@dataclass
class Repository:
    """A repository with all its commits; `refs` leads from branches and `refs/pr/N` to commits."""

    name: str
    gated: bool | str = False
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pull_requests: list[PullRequest] = field(default_factory=list)

    def commit(self, files: Mapping[str, Blob | None], revision: str, title: str) -> Commit:
        """A new commit on the branch: its files with these changed, and those given as None removed."""
        parent = self.commits.get(self.refs.get(revision, ""))
        kept = {path: blob for path, blob in (parent.files.items() if parent else ()) if path not in files}
        tree = kept | {path: blob for path, blob in files.items() if blob is not None}
        text = f"{self.name} {len(self.commits)} {[(path, tree[path].sha256) for path in sorted(tree)]}"
        made = Commit(hashlib.sha1(text.encode()).hexdigest(), title, dict(sorted(tree.items())))
        self.commits[made.oid] = made
        self.refs[revision] = made.oid
        return made

    def at(self, revision: str) -> Commit | None:
        """The commit a branch, a pull request or a hash means."""
        return self.commits.get(self.refs.get(revision, revision))
