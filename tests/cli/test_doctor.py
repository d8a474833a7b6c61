"""`doctor` as a command: what it prints and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hub.fake_hub import Account, FakeHub

TOKEN = "hf_secret_of_nobody"


def doctor(home: Path, hub: FakeHub, *arguments: str, **environment: str) -> Any:
    known = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home), "HF_TOKEN": TOKEN, **hub.environment}
    done = subprocess.run(
        [Path(sys.executable).with_name("llama-convert"), "doctor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=known | environment,
        cwd=home,
        timeout=60,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_well(tmp_path: Path) -> None:
    with FakeHub() as hub:
        hub.add("herd/llama", {"config.json": b"{}"}, gated=True)
        hub.tokens[TOKEN] = Account(name="ann", may_read={"herd/llama"})
        done = doctor(tmp_path, hub, "herd/llama", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    checks = {check["name"]: check for check in told["checks"]}
    assert (told["ok"], told["status"]) == (True, 0)
    assert checks["python"]["found"].startswith(".".join(map(str, sys.version_info[:3])))
    assert {"torch", "numpy", "huggingface_hub", "hf_xet", "transformers", "tokenizers", "llama-convert"} <= set(checks)
    assert checks["device"]["found"]
    assert "GB" in checks["memory"]["found"]
    assert str(tmp_path / "hub") in checks["disk of the cache"]["found"]
    assert checks["repository"]["status"] == "ok"


def test_not_readable(tmp_path: Path) -> None:
    with FakeHub() as hub:
        hub.add("herd/llama", {"config.json": b"{}"}, gated=True)
        hub.tokens[TOKEN] = Account(name="ann")
        done = doctor(tmp_path, hub, "herd/llama")
    assert done.returncode == 4
    said = [line for line in done.stdout.splitlines() if line.startswith("repository")]
    assert "problem" in said[0]
    assert f"Ask for access at {hub.url}/herd/llama" in done.stdout.splitlines()[-1]


def test_offline(tmp_path: Path) -> None:
    with FakeHub() as hub:
        done = doctor(tmp_path, hub, HF_HUB_OFFLINE="1")
        assert hub.requests == []
    assert done.returncode == 0, done.stdout
    assert "offline mode       warning" in done.stdout
