"""The Hub's routes for writers: repositories, large files and commits."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tests.hub.fake_hub.access import Account, check_write, find, who
from tests.hub.fake_hub.answers import Answer, Call, as_json, refusal
from tests.hub.fake_hub.contents import Blob, Commit, PullRequest, Repository, is_lfs, remote_oid
from tests.hub.fake_hub.files import stored_path
from tests.hub.fake_hub.reading import commit_of

if TYPE_CHECKING:
    from tests.hub.fake_hub.hub import FakeHub


def create(hub: FakeHub, call: Call) -> Answer:
    """POST /api/repos/create: 409 where it exists."""
    account = who(hub, call.headers)
    asked = call.json()
    name = f"{asked.get('organization') or (account.name if account else '')}/{asked['name']}"
    check_write(name, account)
    told = {"url": f"{hub.url}/{name}", "name": name, "id": name}
    if name in hub.repositories:
        return as_json({"error": "You already created this model repo", **told}, 409)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    made = hub.repositories[name] = Repository(name, private=private)
    made.commit({".gitattributes": Blob.of(b"*.safetensors filter=lfs\n")}, "main", "initial commit")
    return as_json(told)


def validate_yaml(hub: FakeHub, call: Call) -> Answer:
    """POST /api/validate-yaml: the front matter of a README, which must be a mapping."""
    del hub
    import yaml

    parts = call.json()["content"].split("---\n")
    values = yaml.safe_load(parts[1]) if len(parts) > 2 else {}
    errors = [] if isinstance(values, dict) else [{"message": "the metadata is not a mapping"}]
    return as_json({"errors": errors, "warnings": []}, 400 if errors else 200)


def preupload(hub: FakeHub, call: Call, name: str, revision: str) -> Answer:
    """POST /api/models/NAME/preupload/REVISION: how each file is to come, and what is there already."""
    repository, _ = _writable(hub, call, name, unquote(revision))
    there = commit_of(repository, unquote(revision)).files
    return as_json({"files": [_mode(entry, there.get(entry["path"])) for entry in call.json()["files"]]})


def lfs_batch(hub: FakeHub, call: Call, name: str) -> Answer:
    """POST /NAME.git/info/lfs/objects/batch: where to put the blobs that are not here yet."""
    find(hub, name, check_write(name, who(hub, call.headers), as_pull_request=True))
    return as_json({"transfer": "basic", "objects": [_upload(hub, entry) for entry in call.json()["objects"]]})


def commit(hub: FakeHub, call: Call, name: str, revision: str) -> Answer:
    """POST /api/models/NAME/commit/REVISION: lines of a header, files, and files to delete."""
    repository, account = _writable(hub, call, name, unquote(revision))
    base = commit_of(repository, unquote(revision))
    title, changes = _changes(hub, [json.loads(line) for line in call.text().splitlines()], base)
    target, pull = unquote(revision), None
    if call.query.get("create_pr") == "1":
        made = _open_pull_request(repository, account, title, base, "open")
        target, pull = f"refs/pr/{made.number}", f"{hub.url}/{repository.name}/discussions/{made.number}"
    oid = repository.commit(changes, target, title).oid
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{name}/commit/{oid}"}
    return as_json(answer | ({"pullRequestUrl": pull} if pull else {}))


def open_pull_request(hub: FakeHub, call: Call, name: str) -> Answer:
    """POST /api/models/NAME/discussions: a draft, as for all that a program opens without a commit."""
    account = check_write(name, who(hub, call.headers), as_pull_request=True)
    repository = find(hub, name, account)
    made = _open_pull_request(repository, account, call.json()["title"], commit_of(repository, "main"), "draft")
    return as_json({"num": made.number})


def _writable(hub: FakeHub, call: Call, name: str, revision: str) -> tuple[Repository, Account]:
    """The repository and the account, which may write to this revision of it."""
    account = who(hub, call.headers)
    repository = find(hub, name, account)
    pull = call.query.get("create_pr") == "1" or revision.startswith("refs/pr/")
    return repository, check_write(name, account, as_pull_request=pull)


def _mode(entry: dict[str, Any], there: Blob | None) -> dict[str, Any]:
    path = entry["path"]
    return {
        "path": path,
        "uploadMode": "lfs" if is_lfs(path, entry["size"]) else "regular",
        "shouldIgnore": False,
        "oid": remote_oid(path, there) if there else None,
    }


def _upload(hub: FakeHub, entry: dict[str, Any]) -> dict[str, Any]:
    sha256 = entry["oid"]
    if sha256 in hub.blobs:
        return {"oid": sha256, "size": entry["size"]}
    href = hub.cdn_url + hub.signer.sign(stored_path("upload", sha256, "new"))
    return {"oid": sha256, "size": entry["size"], "actions": {"upload": {"href": href}}}


def _changes(hub: FakeHub, lines: list[dict[str, Any]], base: Commit) -> tuple[str, dict[str, Blob | None]]:
    title = ""
    changes: dict[str, Blob | None] = {}
    for line in lines:
        value = line["value"]
        if line["key"] == "header":
            title = value["summary"]
        elif line["key"] == "file":
            changes[value["path"]] = hub.keep(Blob.of(base64.b64decode(value["content"])))
        elif line["key"] == "lfsFile":
            changes[value["path"]] = _large(hub, value)
        elif line["key"] == "deletedFile":
            changes[value["path"]] = None
        else:
            changes |= dict.fromkeys(path for path in base.files if path.startswith(value["path"].rstrip("/") + "/"))
    return title, changes


def _large(hub: FakeHub, value: dict[str, Any]) -> Blob:
    """The blob that a commit names. With Xet its bytes went past the Hub: only its digest is known then."""
    blob = hub.blobs.get(value["oid"])
    if blob is None and not hub.xet:
        raise refusal(400, f"{value['path']}: its LFS object {value['oid']} was not uploaded")
    return blob or hub.keep(Blob(None, value["size"], value["oid"]))


def _open_pull_request(repository: Repository, account: Account, title: str, base: Commit, status: str) -> PullRequest:
    made = PullRequest(len(repository.pull_requests) + 1, title, account.name, status)
    repository.pull_requests.append(made)
    repository.refs[f"refs/pr/{made.number}"] = base.oid
    return made
