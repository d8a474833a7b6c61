"""A repository on the Hub at one commit: what lies there, how large, with which digests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llama_convert.hub.errors import explained

_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[^@\s]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryName:
    """What a user types: `organisation/name`, with `@revision` (branch, tag, commit) where it is not main."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteEntry:
    """One file of a repository. path: inside it, with `/`. size: bytes.

    sha256: of a large file (LFS); git_sha1: of a small one, as git counts it; one of them is there.
    xet_hash: where the Hub stores it in chunks, their name there.
    """

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None
    xet_hash: str | None = None

    @property
    def digest(self) -> str:
        """The one that its bytes are held against; also its name (ETag) in the client's cache."""
        return self.sha256 or self.git_sha1 or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A repository at one commit. repository: its name as it is now, after renamings. asked: what the user typed.

    commit: 40 hexadecimal digits. gated: whether a licence must be accepted first. licence: as its card says.
    flagged: files that the Hub's scanners warn of, and the level of that; None where there is no finished scan.
    """

    asked: RepositoryName
    repository: str
    commit: str
    entries: tuple[RemoteEntry, ...]
    gated: bool
    licence: str | None
    flagged: Mapping[str, str] | None = None


def parse_name(text: str) -> RepositoryName | None:
    """`organisation/name[@revision]` taken apart; None for anything else, such as a path."""
    match = _NAME.fullmatch(text)
    return RepositoryName(repository=match["repository"], revision=match["revision"]) if match else None


def look_up(name: RepositoryName) -> Snapshot:
    """The repository as it is now, pinned to the commit that its branch is at.

    Whoever asks sees this of a gated repository too; only the files are closed to him. Raises HubError.
    Cost: one request, and one for each thousand files.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    with explained(str(name)):
        info = api.model_info(name.repository, revision=name.revision, securityStatus=True)
        tree = api.list_repo_tree(info.id, recursive=True, revision=info.sha)
        entries = tuple(_entry(item) for item in tree if isinstance(item, RepoFile))
    return Snapshot(
        asked=name,
        repository=info.id,
        commit=str(info.sha),
        entries=entries,
        gated=bool(info.gated),
        licence=getattr(info.card_data, "license_name", None) or getattr(info.card_data, "license", None),
        flagged=_flagged(info.security_repo_status),
    )


def _flagged(status: object) -> dict[str, str] | None:
    """By the Hub's answer: `{"scansDone": true, "filesWithIssues": [{"path": ..., "level": ...}]}`."""
    found = status if isinstance(status, dict) else {}
    issues = found.get("filesWithIssues")
    if found.get("scansDone") is not True or not isinstance(issues, list):
        return None
    return {str(issue.get("path")): str(issue.get("level")) for issue in issues if isinstance(issue, dict)}


def _entry(item: object) -> RemoteEntry:
    lfs = getattr(item, "lfs", None)
    return RemoteEntry(
        path=item.path,  # type: ignore[attr-defined]
        size=item.size,  # type: ignore[attr-defined]
        sha256=lfs.sha256 if lfs else None,
        git_sha1=None if lfs else item.blob_id,  # type: ignore[attr-defined]
        xet_hash=getattr(item, "xet_hash", None),
    )
