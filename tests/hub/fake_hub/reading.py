"""The Hub's routes for readers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote

from tests.hub.fake_hub import xet
from tests.hub.fake_hub.access import check_gate, check_write, find, who, whoami
from tests.hub.fake_hub.answers import Answer, Call, as_json, faulty_status, refusal
from tests.hub.fake_hub.contents import Blob, Commit, PullRequest, Repository, is_lfs
from tests.hub.fake_hub.files import file_answer, stored_path

if TYPE_CHECKING:
    from tests.hub.fake_hub.hub import FakeHub

_CREATED = "2026-01-01T00:00:00.000Z"


def model_info(hub: FakeHub, call: Call, name: str, revision: str = "main") -> Answer:
    """GET /api/models/NAME[/revision/REVISION]: known to everyone, gated or not."""
    repository = find(hub, name, who(hub, call.headers))
    commit = commit_of(repository, unquote(revision))
    return as_json({
        "_id": "0" * 24,
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.split("/")[0],
        "sha": commit.oid,
        "lastModified": _CREATED,
        "createdAt": _CREATED,
        "private": repository.private,
        "gated": "auto" if repository.gated is True else repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "usedStorage": sum(blob.size for blob in commit.files.values()),
        "siblings": [_sibling(path, blob, "blobs" in call.query) for path, blob in commit.files.items()],
        **({"securityRepoStatus": hub.scan} if hub.scan and "securityStatus" in call.query else {}),
    })  # fmt: skip


def tree(hub: FakeHub, call: Call, name: str, revision: str, folder: str = "") -> Answer:
    """GET /api/models/NAME/tree/REVISION[/FOLDER]: pages of entries, led on by the Link header."""
    repository = find(hub, name, who(hub, call.headers))
    commit = commit_of(repository, unquote(revision))
    entries = _entries(hub, commit, unquote(folder), call.query.get("recursive", "").lower() in ("true", "1"))
    if not entries and folder:
        raise refusal(404, f"{unquote(folder)} does not exist on {revision}", "EntryNotFound")
    start = int(call.query.get("cursor", 0))
    stop = start + hub.page_size
    headers = {"X-Repo-Commit": commit.oid}
    if stop < len(entries):
        query = "&".join(f"{key}={quote(value)}" for key, value in {**call.query, "cursor": str(stop)}.items())
        headers["Link"] = f'<{hub.url}{call.path}?{query}>; rel="next"'
    return as_json(entries[start:stop], headers=headers)


def paths_info(hub: FakeHub, call: Call, name: str, revision: str) -> Answer:
    """POST /api/models/NAME/paths-info/REVISION: of these paths those that exist."""
    commit = commit_of(find(hub, name, who(hub, call.headers)), unquote(revision))
    asked = (
        json.loads(call.text())["paths"]
        if "json" in call.headers.get("content-type", "")
        else parse_qs(call.text().decode()).get("paths", [])
    )
    everything = {entry["path"]: entry for entry in _entries(hub, commit, "", recursive=True)}
    return as_json([everything[path] for path in asked if path in everything])


def auth_check(hub: FakeHub, call: Call, name: str, write: str = "") -> Answer:
    """GET /api/models/NAME/auth-check[/write]: whether the contents may be read (written)."""
    account = who(hub, call.headers)
    repository = find(hub, name, account)
    if write:
        check_write(name, account)
    check_gate(repository, account)
    return as_json({})


def refs(hub: FakeHub, call: Call, name: str) -> Answer:
    """GET /api/models/NAME/refs: branches, and with include_prs the pull requests."""
    repository = find(hub, name, who(hub, call.headers))
    pulls = [ref for ref in repository.refs if ref.startswith("refs/pr/")]
    return as_json({
        "branches": [_ref(repository, name, f"refs/heads/{name}") for name in repository.refs if name not in pulls],
        "converts": [],
        "tags": [],
        "pullRequests": [_ref(repository, ref, ref) for ref in pulls],
    })  # fmt: skip


def discussions(hub: FakeHub, call: Call, name: str, number: str = "") -> Answer:
    """GET /api/models/NAME/discussions[/NUMBER]: the pull requests, all on one page, or one in detail."""
    pulls = find(hub, name, who(hub, call.headers)).pull_requests
    if number:
        details = {"events": [], "changes": {"base": "refs/heads/main"}, "filesWithConflicts": []}
        return as_json(_pull_request(name, pulls[int(number) - 1]) | details)
    found = [_pull_request(name, pull) for pull in pulls if call.query.get("author", pull.author) == pull.author]
    return as_json({"discussions": found, "count": len(found), "start": 0})


def current_user(hub: FakeHub, call: Call) -> Answer:
    """GET /api/whoami-v2."""
    return as_json(whoami(who(hub, call.headers)))


def resolve(hub: FakeHub, call: Call, name: str, revision: str, quoted: str) -> Answer:
    """HEAD, GET /NAME/resolve/REVISION/PATH: a small file itself, a redirect to the CDN for a large one."""
    account = who(hub, call.headers)
    repository = find(hub, name, account)
    check_gate(repository, account)
    path = unquote(quoted)
    commit = commit_of(repository, unquote(revision))
    blob = commit.files.get(path)
    if blob is None:
        raise refusal(404, "Entry not found", "EntryNotFound")
    large = is_lfs(path, blob.size)
    faults = hub.book.strike("head" if call.method == "HEAD" or large else "file", path)
    wrong = faulty_status(faults)
    if wrong is not None:
        return wrong
    own = {"X-Repo-Commit": commit.oid}
    if call.method == "HEAD":
        hub.closing.wait(faults.head_delay)
    if large:
        return _redirect(hub, path, blob, own, repository.name)
    return file_answer(blob, call.headers, faults, {**own, "ETag": f'"{blob.git_sha1}"'})


def commit_of(repository: Repository, revision: str) -> Commit:
    """The commit, or the Hub's refusal."""
    commit = repository.at(revision)
    if commit is None:
        raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def _redirect(hub: FakeHub, path: str, blob: Blob, own: dict[str, str], name: str) -> Answer:
    target = hub.cdn_url + hub.signer.sign(stored_path("blob", blob.sha256, path))
    headers = {
        **own,
        **xet.headers(hub, name, own["X-Repo-Commit"], blob),
        "Location": target,
        "Accept-Ranges": "bytes",
        "X-Linked-Etag": f'"{blob.sha256}"',
        "X-Linked-Size": str(blob.size),
        "ETag": f'"{blob.sha256}"',
    }
    # The body has a length of its own, as on the Hub: it is not the file's.
    return Answer(status=302, headers=headers, body=f"Found. Redirecting to {target}".encode())


def _entries(hub: FakeHub, commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    inside = f"{folder}/" if folder else ""
    files = {path: blob for path, blob in commit.files.items() if path.startswith(inside)}
    folders = sorted(set(_folders(files, inside)))
    shown = [path for path in files if recursive or "/" not in path.removeprefix(inside)]
    return [
        {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
        for path in folders
        if recursive or "/" not in path.removeprefix(inside)
    ] + [_file(hub, path, files[path]) for path in shown]


def _folders(paths: Iterable[str], inside: str) -> Iterable[str]:
    for path in paths:
        parts = path.split("/")[:-1]
        yield from (found for end in range(1, len(parts) + 1) if (found := "/".join(parts[:end])).startswith(inside))


def _file(hub: FakeHub, path: str, blob: Blob) -> dict[str, Any]:
    if not is_lfs(path, blob.size):
        return {"type": "file", "oid": blob.git_sha1, "size": blob.size, "path": path}
    lfs = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    pointer = Blob.of(blob.pointer)
    entry = {"type": "file", "oid": pointer.git_sha1, "size": blob.size, "path": path, "lfs": lfs}
    return entry | ({"xetHash": xet.hash_of(hub, blob)} if hub.xet else {})


def _sibling(path: str, blob: Blob, details: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path}
    if not details:
        return entry
    if not is_lfs(path, blob.size):
        return entry | {"size": blob.size, "blobId": blob.git_sha1}
    lfs = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return entry | {"size": blob.size, "blobId": Blob.of(blob.pointer).git_sha1, "lfs": lfs}


def _pull_request(name: str, pull: PullRequest) -> dict[str, Any]:
    return {
        "num": pull.number,
        "title": pull.title,
        "status": pull.status,
        "author": {"name": pull.author},
        "isPullRequest": True,
        "createdAt": _CREATED,
        "repo": {"name": name, "type": "model"},
    }


def _ref(repository: Repository, name: str, ref: str) -> dict[str, str]:
    return {"name": name, "ref": ref, "targetCommit": repository.refs[name]}
