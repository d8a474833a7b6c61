"""A cache of the Hub's client, laid out by hand, and the bytes on a disk, counted by hand."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.cli.commands import Result


def commit_of(text: str) -> str:
    """Some 40-hex commit."""
    return hashlib.sha1(text.encode()).hexdigest()


def put(
    cache: Path,
    repository: str,
    files: Mapping[str, bytes | Path],
    *,
    commit: str = commit_of("first"),
    ref: str | None = "main",
    shared: bool = False,
    listed: Iterable[str] | None = None,
) -> Path:
    """A revision as the client lays it out; its snapshot. shared: large files in the store that all repositories share.

    listed: names that the client's listing of the commit has.
    """
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for name, data in files.items():
        content = data.read_bytes() if isinstance(data, Path) else data
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            _share(cache, blob, content) if shared else blob.write_bytes(content)
        path = snapshot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(blob, path.parent))
    if ref:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    if listed is not None:
        (folder / "trees").mkdir(exist_ok=True)
        tree = {"format_version": 1, "files": {name: {"size": 1, "blob_id": "0" * 40} for name in listed}}
        (folder / "trees" / f"{commit}.json").write_text(json.dumps(tree))
    return snapshot


def _share(cache: Path, blob: Path, content: bytes) -> None:
    store = cache / "blobs"
    store.mkdir(exist_ok=True)
    (store / ".huggingface-shared-blobs").write_text("1\n")
    name = hashlib.sha256(b"xet" + content).hexdigest()
    target = store / name[:2] / name
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        target.write_bytes(content)
    with target.with_name(f"{name}.refs").open("a") as manifest:
        manifest.write(f"{blob.relative_to(cache)}\n")
    blob.symlink_to(os.path.relpath(target, blob.parent))


def files_of(folder: Path) -> dict[str, Path]:
    """Every file of a folder by its name in it."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def blocks(*folders: Path) -> int:
    """Bytes that all files below take on their disk, each inode once."""
    found = {}
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                status = os.lstat(os.path.join(place, name))
                if not os.path.islink(os.path.join(place, name)):
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def names(run: Callable[..., Result]) -> set[str]:
    return {entry["name"] for entry in run("list", "--json").json["entries"]}


def removed(run: Callable[..., Result], name: str, *places: Path) -> int:
    """Bytes that removing it freed, which must be what was said."""
    before = blocks(*places)
    result = run("remove", name, "--yes", "--json")
    assert result.status == 0, result.err
    assert (result.json["removed"], result.json["name"]) == (True, name)
    assert result.json["freed"] == before - blocks(*places)
    return int(result.json["freed"])
