"""A repository to fetch, the process's client pointed at the fake Hub, and what the real client makes of our files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, snapshot_download

from llama_convert.hub import Downloaded, DownloadPlan, download, parse_name, plan_download
from tests.hub.fake_hub import FakeHub

NAME = "herd/llama"
SHARDS = {f"model-0000{number}-of-00002.safetensors": os.urandom(30_000 + number) for number in (1, 2)}
PARAMS = {"original/params.json": b'{"dim": 8}'}
SMALL = {"config.json": b'{"a": 1}\n', "tokenizer.json": b'{"b": 2}\n', "model.safetensors.index.json": b"{}\n"}
HF = {**SMALL, **PARAMS, **SHARDS}
ORIGINAL = {**PARAMS, "original/consolidated.00.pth": os.urandom(40_000)}
FILES = {**HF, **ORIGINAL, "README.md": b"---\nlicense: llama3.1\n---\nA model.\n"}
SHARD = "model-00001-of-00002.safetensors"


def point_at(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """This process's client asks the fake Hub, and what it remembers goes to `home`."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))


def plan(what: str | None = None, name: str = NAME, **options: Any) -> DownloadPlan:
    found = parse_name(name)
    assert found is not None
    return plan_download(found, what, **options)


def fetch(what: str | None = None, name: str = NAME, **options: Any) -> Downloaded:
    return download(plan(what, name, **options))


def client(*patterns: str, hub: FakeHub | None = None, **options: Any) -> Path:
    """What the real client gives for the patterns: offline, or from the Hub where one is given."""
    where = {"endpoint": hub.url} if hub else {"local_files_only": True}
    return Path(snapshot_download(NAME, allow_patterns=patterns or None, **where, **options))


def cache() -> Path:
    """The repository in this process's cache."""
    return Path(constants.HF_HUB_CACHE) / "models--herd--llama"


def file_bytes(hub: FakeHub) -> int:
    """Bytes of files that came, from the store and from the Hub itself."""
    return sum(request.sent_bytes for request in hub.requests if "/api/" not in request.path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, hidden folders aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".cache" not in path.relative_to(folder).parts
    }


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below with size and time of change: equal where nothing was written."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}
