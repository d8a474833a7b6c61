"""A repository speaks: it is fetched once, and run as it stands."""

from __future__ import annotations

from collections.abc import Callable

import huggingface_hub.constants
import pytest

from llama_convert.cli.demo import EMBEDDED
from tests.cli.commands import Result
from tests.hub.fake_hub import FakeHub

PROMPT = "One clear night, Luna the llama"
SENTENCE = " could not sleep, so she went outside to count the stars."


def test_a_repository_goes_on_from_a_text(
    run: Callable[..., Result], hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    hub.add("herd/stories", {f"original/{path.name}": path for path in EMBEDDED.iterdir()})
    done = run("generate", "herd/stories", "--prompt", PROMPT, "--stop", ' "', "-q")
    assert (done.status, done.out) == (0, SENTENCE + "\n"), done.err


def test_a_wrong_wish_is_refused_before_anything_is_fetched(run: Callable[..., Result], hub: FakeHub) -> None:
    hub.add("herd/stories", {f"original/{path.name}": path for path in EMBEDDED.iterdir()})
    done = run("generate", "herd/stories", "--prompt", PROMPT, "--top-p", "2")
    assert done.status == 2
    assert hub.requests == []
