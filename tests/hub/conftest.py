"""The fake Hub, and a client that sees nothing of this machine's user."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from llama_convert.cli import main
from tests.cli.commands import Result
from tests.hub.downloads import FILES, NAME, point_at
from tests.hub.fake_hub import FakeHub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """An empty Hub that listens."""
    with FakeHub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def no_user(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No token, no cache and no proxy of whoever runs the tests; plain HTTP unless a test turns Xet on."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("hf-home")
    constants = huggingface_hub.constants
    for name, value in {
        "HF_HOME": str(home),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():
        monkeypatch.setattr(constants, name, value)


@pytest.fixture
def herd(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    """A Hub with one repository, known to this process's client."""
    point_at(hub, monkeypatch, tmp_path / "user-cache")
    hub.add(NAME, FILES)
    return hub


@pytest.fixture
def run(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """(arguments, token) -> the finished command, in this process, which takes the fake Hub for the Hub."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)

    def ran(*arguments: object, token: str | None = None) -> Result:
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return Result(status, *capfd.readouterr())

    yield ran
    signal.signal(signal.SIGTERM, handler)
