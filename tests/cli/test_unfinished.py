"""A download into a folder that is killed: known from its first byte, gone on with, and removable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

from tests.cli.conftest import check_refusal
from tests.cli.hub_commands import User
from tests.hub.downloads import FILES, HF, NAME, SHARDS, contents, file_bytes
from tests.hub.fake_hub import Faults

FIRST, SECOND = sorted(SHARDS)
LATER = {*HF} - {FIRST}
RECORD = ".cache/llama-convert/download.json"


@contextmanager
def downloading(user: User) -> Iterator[Popen[str]]:
    """The download, where the first file is here and the second one comes slowly; killed at the end of the block."""
    user.hub.faults = Faults(slow=2_000, suffix=SECOND)
    running = user.start("download", NAME, "--to", "D")
    try:
        sent = user.hub.sent_bytes()
        while user.hub.sent_bytes() - sent <= len(SHARDS[FIRST]) + 500 and running.poll() is None:
            time.sleep(0.02)
        assert running.poll() is None, running.communicate()
        yield running
    finally:
        running.kill()
        running.communicate()
        user.hub.faults = Faults()


def listed(user: User) -> list[dict[str, Any]]:
    return list(user.runs("list", "--json").json["entries"])


def test_it_is_known_and_goes_on(user: User) -> None:
    commit = user.hub.add(NAME, FILES)
    with downloading(user):
        (entry,) = listed(user)
        assert (entry["name"], entry["state"]) == ("D", "being downloaded now")
        refused = user.runs("remove", "D", "--yes")
        check_refusal(refused, 2)
        assert "a run is writing it now" in refused.err
    (entry,) = listed(user)
    assert (entry["name"], entry["kind"], entry["state"]) == ("D", "made", "a download that did not end")
    assert (entry["source"]["repository"], entry["source"]["commit"]) == (NAME, commit)
    assert {*entry["missing"]} == LATER
    assert "a download that did not end" in user.runs("list").out
    user.hub.clear()
    done = user.runs("download", NAME, "--to", "D", "--json")
    assert done.json["reused"] == len(SHARDS[FIRST])
    assert file_bytes(user.hub) <= sum(len(HF[path]) for path in LATER) + 2000
    assert contents(user.home / "D") == HF
    (entry,) = listed(user)
    assert (entry["state"], entry["missing"]) == ("", [])
    record = json.loads((user.home / "D" / RECORD).read_text())
    assert ({*record["files"]}, record["to_come"], record["earlier"]) == ({*HF}, {}, {})


def test_it_is_removed_with_its_rests(user: User) -> None:
    user.hub.add(NAME, FILES)
    with downloading(user):
        pass
    assert any(path.name.endswith(".incomplete") for path in (user.home / "D").iterdir())
    gone = user.runs("remove", "D", "--yes")
    assert gone.status == 0, gone.err
    assert "D: a download that did not end" in gone.err
    assert not (user.home / "D").exists()
    assert listed(user) == []


def test_what_it_would_have_replaced_is_the_users(user: User) -> None:
    """A file of a name that is yet to come was there before: it is no file of ours until it has come."""
    user.hub.add(NAME, FILES)
    (user.home / "D").mkdir()
    mine = user.home / "D" / "config.json"
    mine.write_text("mine")
    with downloading(user):
        pass
    before = contents(user.home / "D")
    refused = user.runs("remove", "D", "--yes")
    check_refusal(refused, 2)
    assert [line.strip() for line in refused.complaint[1:-1]] == ["config.json"]
    assert contents(user.home / "D") == before


def test_an_update_that_is_killed(user: User) -> None:
    """Files of the commit before are ours until they are replaced, and not of this commit."""
    user.hub.add(NAME, FILES)
    assert user.runs("download", NAME, "--to", "D").status == 0
    commit = user.hub.add(NAME, {FIRST: b"1" * 30_000, SECOND: b"2" * 30_000})
    with downloading(user):
        pass
    record = json.loads((user.home / "D" / RECORD).read_text())
    assert record["commit"] == commit
    assert {*record["files"]} == {*HF} - {SECOND}
    assert ({*record["to_come"]}, {*record["earlier"]}) == ({SECOND}, {SECOND})
    (entry,) = listed(user)
    assert (entry["state"], entry["missing"]) == ("a download that did not end", [SECOND])
    assert user.runs("remove", "D", "--yes").status == 0
    assert [path.name for path in Path(user.home).iterdir() if path.name != ".cache"] == []
