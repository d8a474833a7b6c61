"""What `doctor` asks of the Hub, against one that answers, refuses, is silent or is none."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from huggingface_hub import constants

from llama_convert.hub import doctor
from llama_convert.hub.doctor import Check, hub_checks
from tests.hub.fake_hub import Account, FakeHub

NAME = "herd/llama"
TOKEN = "hf_secret_of_nobody"
FILES = {"config.json": b"{}", "original/consolidated.00.pth": b"#" * 5000}

Ask = Callable[..., dict[str, Check]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """(address, repository, token) -> the checks by name; no token is in any of them."""

    def asked(address: str, repository: str | None = None, token: str | None = None) -> dict[str, Check]:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        found = {check.name: check for check in hub_checks(repository)}
        assert TOKEN not in str(found)
        assert all(check.advice for check in found.values() if check.status != "ok")
        return found

    return asked


def test_all_is_well(hub: FakeHub, ask: Ask) -> None:
    commit = hub.add(NAME, FILES, gated=True)
    hub.tokens[TOKEN] = Account(name="ann", may_read={NAME}, kind="read")
    found = ask(hub.url, NAME, TOKEN)
    assert {check.status for check in found.values()} == {"ok"}
    assert found["endpoint"].found == hub.url
    assert found["token"].found.startswith("from HF_TOKEN, of ann")
    assert found["repository"].found == f"{NAME}: readable at commit {commit[:8]}, gated"
    for route in ("/auth-check", "/resolve/"):
        assert any(route in request.path for request in hub.requests), route
    assert all(request.method == "HEAD" for request in hub.requests if "/resolve/" in request.path)
    assert hub.sent_bytes() == 0


@pytest.mark.parametrize(
    ("token", "account", "repository", "words"),
    [
        (None, None, NAME, "gated, and there is no token"),
        (TOKEN, Account(name="ann"), NAME, "ann is not on its list"),
        (
            TOKEN,
            Account(name="ann", may_read={NAME}, gated_permission=False),
            NAME,
            "the token (HF_TOKEN) of ann is fine-grained without the permission to read gated repositories",
        ),
        (TOKEN, None, NAME, "the token (HF_TOKEN) is not accepted"),
        (TOKEN, Account(name="ann"), "herd/gone", "not found"),
        (TOKEN, Account(name="ann"), f"{NAME}@gone", "no such revision"),
        (TOKEN, Account(name="ann"), "a/b/c", "not the name of a repository"),
    ],
    ids=["no token", "not approved", "no permission", "bad token", "gone", "revision", "name"],
)
def test_what_cannot_be_read(
    hub: FakeHub, ask: Ask, token: str | None, account: Account | None, repository: str, words: str
) -> None:
    hub.add(NAME, FILES, gated=True)
    if token and account:
        hub.tokens[token] = account
    found = ask(hub.url, repository, token)
    assert found["repository"].status == "problem"
    assert words in found["repository"].found
    assert found["connection"].status == "ok"
    assert (found["token"].status == "problem") is (token is not None and account is None)


def test_an_answer_that_is_no_hubs(hub: FakeHub, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "look_up", lambda name: json.loads("<html>"))
    found = ask(hub.url, NAME)["repository"]
    assert (found.status, "not as a Hub does" in found.found) == ("problem", True)


def test_a_renamed_repository(hub: FakeHub, ask: Ask) -> None:
    hub.add(NAME, FILES)
    hub.rename(NAME, "herd/new-name")
    found = ask(hub.url, NAME)
    assert found["repository"].status == "ok"
    assert found["repository"].found.endswith(", now herd/new-name")
    assert found["token"].status == "warning"


def test_a_token_that_may_not_read_what_is_gated(hub: FakeHub, ask: Ask) -> None:
    hub.tokens[TOKEN] = Account(name="ann", gated_permission=False)
    found = ask(hub.url, None, TOKEN)["token"]
    assert (found.status, found.found.rpartition(", ")[2]) == (
        "warning",
        "without the permission to read gated repositories",
    )


def test_offline_nothing_is_asked(hub: FakeHub, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = ask(hub.url, NAME, TOKEN)
    assert hub.requests == []
    assert found["offline mode"].status == "warning"
    assert "connection" not in found
    assert "offline mode is on" in found["token"].found
    assert (found["repository"].status, "offline mode is on" in found["repository"].found) == ("problem", True)


def test_a_dead_network_is_told_in_time(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        found = ask(f"http://127.0.0.1:{silent.getsockname()[1]}", NAME, TOKEN)
        assert time.monotonic() - begun < 3
    assert found["connection"].status == "problem"
    assert "no connection" in found["token"].found
    assert "no connection" in found["repository"].found


def test_a_question_that_is_never_answered(hub: FakeHub, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SECONDS", 0.3)
    monkeypatch.setattr(doctor, "look_up", lambda name: time.sleep(30))
    found = ask(hub.url, NAME)
    assert (found["repository"].status, "does not answer within" in found["repository"].found) == ("problem", True)


def test_passwords_in_addresses_are_not_shown(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:pass-word@proxy:3128")
    found = ask("http://ann:pass-word@127.0.0.1:9", NAME)
    assert "pass-word" not in str(found)
    assert found["proxies"].found == "HTTPS_PROXY"
    assert found["endpoint"].found == "http://127.0.0.1:9"
    assert found["connection"].status == "problem"


@pytest.fixture(params=[200, 404, 503])
def no_hub(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that is no Hub: a page that asks for a password, a stranger, one that is ill."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param)
            self.send_header("Content-Type", "text/html" if request.param == 200 else "application/json")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_answers_and_is_no_hub(ask: Ask, no_hub: str) -> None:
    found = ask(no_hub, NAME)
    assert found["connection"].status == "problem"
    assert found["connection"].found.startswith(f"{no_hub} answers ")
