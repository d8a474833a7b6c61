"""What the tests of fetching share: a file on the fake Hub, fetched in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from llama_convert.hub.fetch import Fetched, fetch
from llama_convert.hub.remote import RemoteFile
from llama_convert.hub.repository import look_up, parse_name
from tests.hub.fake_hub import FakeHub

NAME, PATH = "herd/llama", "original/consolidated.00.pth"
SEGMENT = 64 << 10
CONNECTIONS = 4
_FETCH = """
import sys
from pathlib import Path
from llama_convert.hub import fetch as engine, remote, wire
from llama_convert.hub.repository import look_up, parse_name
engine.SEGMENT = int(sys.argv[1])
wire._BUFFER = min(wire._BUFFER, engine.SEGMENT // 4)  # as much smaller than a segment as it really is
snapshot = look_up(parse_name(sys.argv[2]))
entry = next(entry for entry in snapshot.entries if entry.path == sys.argv[3])
print("begins", flush=True)
file, target = remote.RemoteFile(snapshot, entry), Path(sys.argv[4])
fetched = engine.fetch(file, target, stalled=1.0, on_note=lambda text: print(text, flush=True))
print(f"reused {fetched.reused}", flush=True)
"""


def use(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    """The client takes this for the Hub; segments and waits are short."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("llama_convert.hub.fetch.SEGMENT", SEGMENT)
    monkeypatch.setattr("llama_convert.hub.remote._FIRST_WAIT", 0.01)


def remote(path: str = PATH) -> RemoteFile:
    """The file as the Hub lists it now."""
    name = parse_name(NAME)
    assert name
    snapshot = look_up(name)
    return RemoteFile(snapshot, next(entry for entry in snapshot.entries if entry.path == path))


def brought(target: Path, **options: object) -> Fetched:
    """The file at the target."""
    return fetch(remote(), target, **options)  # type: ignore[arg-type]


def process(hub: FakeHub, target: Path, segment: int = SEGMENT) -> subprocess.Popen[str]:
    """The same in a process of its own, which says that it begins before it fetches."""
    command = [sys.executable, "-c", _FETCH, str(segment), NAME, PATH, str(target)]
    return subprocess.Popen(command, env={**os.environ, **hub.environment}, stdout=subprocess.PIPE, text=True)


def left(target: Path) -> list[str]:
    """Names of what lies beside the target, itself included."""
    return sorted(path.name for path in target.parent.iterdir())
