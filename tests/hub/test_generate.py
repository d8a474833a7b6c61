"""A repository speaks: it is fetched once, and run as it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llama_convert.cli.demo import EMBEDDED
from tests.cli.commands import Result
from tests.hub.downloads import file_bytes, point_at
from tests.hub.fake_hub import FakeHub

NAME = "herd/stories"
PROMPT = "One clear night, Luna the llama"
SENTENCE = " could not sleep, so she went outside to count the stars."


@pytest.fixture
def stories(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    """The embedded model in Meta's format."""
    point_at(hub, monkeypatch, tmp_path / "user-cache")
    hub.add(NAME, {f"original/{path.name}": path for path in EMBEDDED.iterdir()})
    return hub


def test_a_repository_goes_on_from_a_text(run: Callable[..., Result], stories: FakeHub) -> None:
    """It is fetched once."""
    done = run("generate", NAME, "--prompt", PROMPT, "--stop", ' "', "-q")
    assert (done.status, done.out) == (0, SENTENCE + "\n"), done.err
    assert file_bytes(stories) >= sum(path.stat().st_size for path in EMBEDDED.glob("*.pth"))
    stories.clear()
    again = run("generate", f"{NAME}@main", "--prompt", PROMPT, "--stop", ' "', "-q")
    assert (again.out, file_bytes(stories)) == (done.out, 0)


def test_it_chats(run: Callable[..., Result], stories: FakeHub) -> None:
    refused = run("chat", NAME)
    assert (refused.status, "a base model goes on from a text" in refused.err) == (2, True)
    assert file_bytes(stories) > 0


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_closed_gate(command: str, run: Callable[..., Result], stories: FakeHub) -> None:
    stories.add(NAME, {}, gated=True)
    refused = run(command, NAME, *(["--prompt", PROMPT] if command == "generate" else []))
    assert (refused.status, refused.out, file_bytes(stories)) == (4, "", 0)
    assert f"{NAME}: gated, and there is no token" in refused.complaint[0]


@pytest.mark.parametrize("command", ["generate", "chat"])
@pytest.mark.parametrize(
    "wish",
    [
        ("--top-p", "2"),
        ("--dtype", "int4"),
        ("--device", "abacus"),
        ("--quantization-encoding", "q2"),
        ("--quantization-encoding", "q4_0", "--dtype", "float32"),
        ("--tokenizer-path", "nowhere.model"),
        ("--tokenizer-path", str(EMBEDDED / "consolidated.00.pth")),
    ],
)
def test_a_wrong_wish_is_refused_before_anything_is_fetched(
    command: str, wish: tuple[str, ...], run: Callable[..., Result], stories: FakeHub
) -> None:
    done = run(command, NAME, *(["--prompt", PROMPT] if command == "generate" else []), *wish)
    assert done.status in (2, 3), done.err
    assert stories.requests == []
