"""`download` as a user meets it: the plan, what comes of it, and every way of having no access."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.cli.conftest import check_refusal
from tests.cli.hub_commands import User
from tests.hub.downloads import FILES, HF, NAME, ORIGINAL, contents
from tests.hub.fake_hub import Account, Faults

TOKENS = {
    "hf_good": Account(name="reader", may_read={NAME}),
    "hf_other": Account(name="other"),
    "hf_narrow": Account(name="narrow", may_read={NAME}, gated_permission=False),
}


def test_the_plan_then_the_checkpoint_then_the_next_command(user: User) -> None:
    commit = user.hub.add(NAME, FILES)
    done = user.runs("download", NAME, "--what", "original", "--to", "D")
    assert done.status == 0, done.err
    lines = done.err.splitlines()
    assert lines[0] == f"{NAME}: original at commit {commit}, 2 files, 40.0 kB"
    assert "original/consolidated.00.pth  40.0 kB  to fetch" in lines
    assert "left alone: hf (2 files, 60.0 kB); others (4 files, 56 B)" in lines
    assert "fetch   40.0 kB of 40.0 kB; 0 B are here already" in lines
    assert any(line.startswith(f"disk    {user.home}: 40.0 kB needed, ") and line.endswith(" free") for line in lines)
    assert "access  not gated" in lines
    assert lines[-1] == "Next: llama-convert convert D/original llama-hf --to hf --verify"
    assert done.out == f"D/original: original of {NAME}@{commit}, 2 files, 40.0 kB fetched, all digests held\n"
    assert contents(user.home / "D") == ORIGINAL
    again = user.runs("download", NAME, "--what", "original", "--to", "D")
    assert again.err.splitlines()[0] == f"{NAME}: original at commit {commit}, 2 files, all here"
    assert "0 B fetched, the rest was here" in again.out


def test_json(user: User) -> None:
    commit = user.hub.add(NAME, FILES)
    planned = user.runs("download", NAME, "--dry-run", "--json").json["download"]
    assert list(user.home.iterdir()) == []
    done = user.runs("download", NAME, "--json").json
    for told in (planned, done):
        assert (told["repository"], told["commit"], told["what"]) == (NAME, commit, "hf")
        assert Path(told["checkpoint"]) == user.cache / "models--herd--llama" / "snapshots" / commit
        assert {entry["path"]: entry["size"] for entry in told["files"]} == {path: len(HF[path]) for path in HF}
    assert {entry["path"] for entry in planned["left_alone"]} == {*FILES} - {*HF}
    assert planned["to_fetch"] == planned["nbytes"] == done["fetched"] == sum(map(len, HF.values()))
    assert contents(Path(done["checkpoint"])) == HF
    failed = user.runs("download", NAME, "--what", "gguf", "--json")
    assert (failed.json["ok"], failed.json["status"], failed.status) == (False, 2, 2)
    assert "--what original: 2 files, 40,010 bytes in original" in failed.json["problems"]


def test_quiet_and_renamed(user: User) -> None:
    user.hub.add("herd/old", FILES)
    user.hub.rename("herd/old", NAME)
    done = user.runs("download", "herd/old", "--quiet")
    assert (done.status, done.err) == (0, "")
    assert f"hf of {NAME}@" in done.out
    assert user.runs("download", "herd/old").err.startswith(f"herd/old, now called {NAME}: hf at commit ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((NAME, "--what", "gguf"), f"{NAME}: no gguf in its 8 files"),
        ((NAME, "--what", "original:mp8"), f"{NAME}: no original:mp8 there"),
        ((NAME, "--what", "weights"), "--what weights: there is no such"),
        (("herd/llama/original",), "herd/llama/original: not the name of a repository"),
    ],
)
def test_wrong_usage(user: User, arguments: tuple[str, ...], words: str) -> None:
    user.hub.add(NAME, FILES)
    done = user.runs("download", *arguments)
    check_refusal(done, 2)
    assert words in done.err
    assert list(user.home.iterdir()) == []


def page(status: int) -> type[SimpleHTTPRequestHandler]:
    """A server that knows nothing of the Hub, and answers everything with a page."""

    class Page(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<!DOCTYPE html><html>Log in, please</html>"
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    return Page


@pytest.fixture
def elsewhere() -> Iterator[Callable[[int], str]]:
    """status -> the address of a server that is no Hub."""
    servers: list[ThreadingHTTPServer] = []

    def started(status: int) -> str:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), page(status)))
        Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


LOGIN = "Check the name; for a private repository run: hf auth login"
RENEW = "Make one at URL/settings/tokens, then set HF_TOKEN to it."
GONE = "not found: gone, renamed, or private to others"
BAD = "the token (HF_TOKEN) is not accepted: mistyped, expired or revoked"
# What is asked for, with which token; what is wrong, and what to do.
REFUSED: dict[str, tuple[str, str | None, str, str]] = {
    "gate, no token": (
        *(NAME, None, "gated, and there is no token"),
        "Ask for access at URL/herd/llama, then run: hf auth login",
    ),
    "gate, bad token": (NAME, "hf_unknown", BAD, RENEW),
    "open, bad token": ("herd/open", "hf_unknown", BAD, RENEW),
    "gate, narrow token": (
        *(NAME, "hf_narrow", "gated, and the token (HF_TOKEN) of narrow is fine-grained without the permission to "),
        "Tick 'Read access to contents of all public gated repos you can access' for it at URL/settings/tokens, and "
        "run it again.",
    ),
    "gate, not approved": (
        *(NAME, "hf_other", "gated, and other is not on its list: access was not asked for, or not yet granted"),
        "Ask for access at URL/herd/llama, wait for the mail that grants it, and run it again.",
    ),
    "gone, no token": ("herd/gone", None, "not found, or private: there is no token", LOGIN),
    "gone": (
        *("herd/gone", "hf_good", "not found: gone, renamed, or private to others"),
        "Check the name at URL/herd/gone",
    ),
    "private, no token": ("herd/private", None, "not found, or private: there is no token", LOGIN),
    "private to others": ("herd/private", "hf_good", GONE, "Check the name at URL/herd/private"),
    "revision": (
        *("herd/open@v7", None, "has no such revision"),
        "See its branches and commits at URL/herd/open/commits/main",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_no_access(user: User, row: str) -> None:
    name, token, words, advice = REFUSED[row]
    user.hub.add(NAME, FILES, gated="manual")
    user.hub.add("herd/open", FILES)
    user.hub.add("herd/private", FILES, private=True)
    user.hub.tokens = dict(TOKENS)
    done = user.runs("download", name, **({"HF_TOKEN": token} if token else {}))
    assert (done.status, done.out) == (4, "")
    said, told = done.complaint
    assert said.startswith(f"llama-convert: {name}: {words}")
    assert told == advice.replace("URL", user.hub.url)
    assert list(user.home.iterdir()) == []
    assert user.hub.sent_bytes() == 0
    assert token is None or token not in done.err


@pytest.mark.parametrize("status", [None, 200, 404, 503])
def test_no_hub_there(user: User, elsewhere: Callable[[int], str], status: int | None) -> None:
    address = elsewhere(status) if status else "http://127.0.0.1:9"
    done = user.runs("download", NAME, HF_ENDPOINT=address)
    assert (done.status, done.out) == (4, "")
    said = {
        None: f"no connection to {address} (ConnectError: [Errno 111] Connection refused)",
        200: f"{address} does not answer as a Hub does",
        404: f"{address} does not answer as a Hub does",
        503: "the Hub answered 503",
    }
    assert done.complaint[0] == f"llama-convert: {NAME}: {said[status]}"
    assert len(done.complaint) == 2


def test_offline(user: User) -> None:
    user.hub.add(NAME, FILES)
    refused = user.runs("download", NAME, HF_HUB_OFFLINE="1")
    assert (refused.status, user.hub.requests) == (4, [])
    assert refused.complaint[-1] == "Unset HF_HUB_OFFLINE and run it again."
    assert user.runs("download", NAME).status == 0
    user.hub.clear()
    assert user.runs("download", NAME, HF_HUB_OFFLINE="1").status == 0
    partly = user.runs("download", NAME, "--what", "original", HF_HUB_OFFLINE="1")
    assert (partly.status, user.hub.requests) == (4, [])
    assert [line.strip() for line in partly.complaint[1:-1]] == ["original/consolidated.00.pth"]


def test_no_secret_is_left_anywhere(user: User) -> None:
    """Neither the token nor the address of the store, which is a signed one: not in words, not in files."""
    user.hub.add(NAME, FILES, gated="manual")
    user.hub.tokens = dict(TOKENS)
    user.hub.faults = [Faults(html=True, suffix="1-of-00002.safetensors"), Faults(cut_after=10_000, suffix=".pth")]
    failed = user.runs("download", NAME, "--json", HF_TOKEN="hf_good")
    done = user.runs("download", NAME, "--what", "original", HF_TOKEN="hf_good")
    assert (failed.status, done.status) == (4, 0)
    assert any(request.host == "cdn" and request.sent_bytes for request in user.hub.requests)
    written = b"".join(user.written())
    assert ORIGINAL["original/params.json"] in written, "the files are looked into"
    for secret in ("hf_good", user.hub.cdn_url.removeprefix("http://"), "X-Amz-Signature"):
        assert secret not in failed.out + failed.err + done.out + done.err
        assert secret.encode() not in written


def test_interrupted(user: User) -> None:
    user.hub.add(NAME, FILES)
    user.hub.faults = Faults(slow=2_000, suffix=".pth")
    running = user.start("download", NAME, "--what", "original", "--to", "D")
    while not user.hub.sent_bytes() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err.endswith("What was fetched is kept: the same command goes on from there.\nllama-convert: interrupted\n")
    assert not (user.home / "D" / "original" / "consolidated.00.pth").exists()
    user.hub.faults = Faults()
    assert user.runs("download", NAME, "--what", "original", "--to", "D").status == 0
    assert contents(user.home / "D") == ORIGINAL


@pytest.mark.parametrize("place", [(), ("--to", "D")], ids=["cache", "folder"])
def test_two_at_once(user: User, place: tuple[str, ...]) -> None:
    """The second waits for the first; no byte of the weights comes twice."""
    user.hub.add(NAME, FILES)
    user.hub.faults = Faults(slow=40_000, suffix=".pth")
    both = [user.start("download", NAME, "--what", "original", *place) for _ in range(2)]
    told = [running.communicate(timeout=60) for running in both]
    assert [running.returncode for running in both] == [0, 0], told
    assert user.hub.sent_bytes() == len(ORIGINAL["original/consolidated.00.pth"])
    waited = ["note: original/consolidated.00.pth: another process is fetching it" in err for _, err in told]
    assert sorted(waited) == [False, True]
