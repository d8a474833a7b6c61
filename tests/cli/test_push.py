"""--push_to_hub, against a Hub of a few lines on this machine, spoken to by the real client."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

Source = Callable[..., Path]


@dataclass
class Hub:
    """What was asked of it; `status` is what it answers, other than 200 to refuse."""

    status: int = 200
    address: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            name = "/".join(filter(None, (self.created[-1].get("organization"), self.created[-1]["name"])))
            return {"url": f"{self.address}/{name}", "id": name}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
        if "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return {"commitUrl": f"{self.address}/herd/llama/commit/0", "commitOid": "0" * 40}
        return {}


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = self.headers.get("Content-Length")
            body = self.rfile.read(int(size)) if size else self._chunks()
            hub.tokens.add(self.headers.get("Authorization"))
            answer = json.dumps(hub.answer(self.path, body) if hub.status == 200 else {"error": "no"}).encode()
            self.send_response(hub.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            self.send_error(404)

        def _chunks(self) -> bytes:
            found = b""
            while length := int(self.rfile.readline(), 16):
                found += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


def push(folder: Path, repository: str, hub: Hub, cwd: Path, token: str | None = "hf_secret") -> Any:
    """The old script's command line; the output folder is the repository's name."""
    known = {"PATH": os.environ["PATH"], "HOME": str(cwd), "HF_HOME": str(cwd / "home"), "HF_ENDPOINT": hub.address}
    command = Path(sys.executable).with_name("llama-convert")
    return subprocess.run(
        [command, "--input_dir", folder, "--output_dir", repository, "--push_to_hub", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=known | ({"HF_TOKEN": token} if token else {}),
    )


def test_the_folder_is_uploaded_as_it_lies(source: Source, tmp_path: Path, hub: Hub) -> None:
    done = push(source("3-2shards"), "herd/llama", hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True
    assert f"pushed to {hub.address}/herd/llama" in done.stderr
    assert [(made["organization"], made["name"]) for made in hub.created] == [("herd", "llama")]
    assert hub.tokens == {"Bearer hf_secret"}
    folder = tmp_path / "herd" / "llama"
    written = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.files == written


@pytest.mark.parametrize(
    ("repository", "token", "status", "words"),
    [
        ("herd/llama", None, 200, "herd/llama: there is no token"),
        ("herd/llama", "hf_secret", 401, "herd/llama: the token (HF_TOKEN) is not accepted"),
        ("herd/llama", "hf_secret", 403, "herd/llama: the token has no permission for this"),
        ("a/b/c", "hf_secret", 200, "a/b/c: not the name of a repository"),
    ],
    ids=["no token", "401", "403", "name"],
)
def test_refusals(
    source: Source, tmp_path: Path, hub: Hub, repository: str, token: str | None, status: int, words: str
) -> None:
    hub.status = status if token else 401
    done = push(source("3-2shards"), repository, hub, tmp_path, token)
    assert done.returncode == 4, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_secret" not in done.stderr + done.stdout
    told = json.loads(done.stdout)
    assert (told["ok"], told["status"]) == (False, 4)
    assert told["advice"]
    assert not (tmp_path / repository).exists(), "told before the conversion, not after hours"
    assert hub.files == {}


def test_no_connection(source: Source, tmp_path: Path, hub: Hub) -> None:
    hub.address = "http://127.0.0.1:9"
    done = push(source("3-2shards"), "herd/llama", hub, tmp_path)
    assert done.returncode == 4
    assert "herd/llama: no connection to http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
