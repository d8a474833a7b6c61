"""What the Hub's scanners say of files that are pickles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.commands import Result
from tests.hub.downloads import FILES, NAME
from tests.hub.fake_hub import FakeHub

Run = Callable[..., Result]
SCANS: list[tuple[dict[str, Any] | None, str | None]] = [
    (None, None),
    ({"scansDone": False, "filesWithIssues": []}, None),
    ({"scansDone": True}, None),
    (
        {"scansDone": True, "filesWithIssues": [{"path": "other.pth", "level": "unsafe"}]},
        "the Hub's scanners warn of none of these files",
    ),
    (
        {"scansDone": True, "filesWithIssues": [{"path": "original/consolidated.00.pth", "level": "suspicious"}]},
        "THE HUB WARNS of original/consolidated.00.pth (suspicious)",
    ),
]


@pytest.mark.parametrize(("scan", "words"), SCANS)
def test_what_the_hubs_scanners_say_of_pickles(
    hub: FakeHub, run: Run, scan: dict[str, Any] | None, words: str | None
) -> None:
    """It comes with what is asked for anyway; safetensors hold no code, and nothing is said of them."""
    hub.add(NAME, FILES)
    hub.scan = scan
    told = run("download", NAME, "--what", "original", "--dry-run")
    assert [line.split(maxsplit=1)[1] for line in told.out.splitlines() if line.startswith("scan ")] == (
        [words] if words else []
    )
    assert len(hub.requests) == 2, "the repository, and its files"
    assert "scan " not in run("download", NAME, "--dry-run").out
    flagged = run("download", NAME, "--dry-run", "--json").json["download"]["flagged"]
    issues = scan["filesWithIssues"] if scan and words else None
    assert flagged == (None if issues is None else {issue["path"]: issue["level"] for issue in issues})
