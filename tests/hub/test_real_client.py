"""What the client itself raises and lets pass: our commands build on it, and a client that changes is to be noticed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from tests.hub.fake_hub import Account, FakeHub, Faults

OPEN, GATED, PTH = "herd/open", "herd/gated", "original/consolidated.00.pth"
FILES = {"config.json": b"{}\n", PTH: bytes(range(256)) * 40}


@pytest.fixture
def herd(hub: FakeHub) -> FakeHub:
    hub.add(OPEN, FILES)
    hub.add(GATED, FILES, gated=True)
    hub.tokens["hf_other"] = Account(name="other")
    hub.tokens["hf_narrow"] = Account(name="narrow", may_read={GATED}, gated_permission=False)
    return hub


def get(hub: FakeHub, repository: str, file: str = PTH, token: Any = False, **options: Any) -> str:
    return hf_hub_download(repository, file, endpoint=hub.url, token=token, **options)


def check(hub: FakeHub, repository: str, token: Any) -> None:
    HfApi(endpoint=hub.url).auth_check(repository, token=token)


Call = Callable[[FakeHub], Any]
REFUSED: dict[str, tuple[Call, type[Exception], int | None]] = {
    "gate, no token": (lambda hub: get(hub, GATED), GatedRepoError, 401),
    "gate, no token, asked": (lambda hub: check(hub, GATED, False), GatedRepoError, 401),
    "gate, not approved": (lambda hub: get(hub, GATED, token="hf_other"), GatedRepoError, 403),
    "gate, not approved, asked": (lambda hub: check(hub, GATED, "hf_other"), GatedRepoError, 403),
    # Without an error code: a download takes it for a Hub that cannot be reached, and hides the status.
    "gate, narrow token": (lambda hub: get(hub, GATED, token="hf_narrow"), LocalEntryNotFoundError, None),
    "gate, narrow token, asked": (lambda hub: check(hub, GATED, "hf_narrow"), HfHubHTTPError, 403),
    "unknown token": (lambda hub: get(hub, OPEN, token="hf_unknown"), HfHubHTTPError, 401),
    "unknown token, whose": (lambda hub: HfApi(endpoint=hub.url).whoami("hf_unknown"), HfHubHTTPError, 401),
    "no such repository": (lambda hub: get(hub, "herd/none", token="hf_other"), RepositoryNotFoundError, 404),
    "no such repository, no token": (lambda hub: get(hub, "herd/none"), RepositoryNotFoundError, 401),
    "no such revision": (lambda hub: get(hub, OPEN, revision="v9"), RevisionNotFoundError, 404),
    "no such file": (lambda hub: get(hub, OPEN, "none.json"), RemoteEntryNotFoundError, 404),
    "not a name": (lambda hub: get(hub, "a/b/c"), HFValidationError, None),
}


@pytest.mark.parametrize("row", REFUSED)
def test_refusals(herd: FakeHub, row: str) -> None:
    call, kind, status = REFUSED[row]
    with pytest.raises(kind) as found:
        call(herd)
    assert type(found.value) is kind
    assert getattr(getattr(found.value, "response", None), "status_code", None) == status
    assert herd.sent_bytes() == 0


def test_the_cause_of_a_hidden_status(herd: FakeHub) -> None:
    with pytest.raises(LocalEntryNotFoundError) as found:
        get(herd, GATED, token="hf_narrow")
    assert isinstance(found.value.__cause__, HfHubHTTPError)
    assert "fine-grained token" in str(found.value.__cause__)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's pauses between its tries: 23 seconds
    gone = FakeHub()
    with gone:
        gone.add(OPEN, FILES)
        cached = get(gone, OPEN)
    assert get(gone, OPEN) == cached, "what is in the cache needs no Hub"
    with pytest.raises(LocalEntryNotFoundError) as found:
        get(gone, OPEN, "config.json")
    assert isinstance(found.value.__cause__, httpx.ConnectError)


def test_offline_with_a_part(herd: FakeHub) -> None:
    snapshot_download(OPEN, endpoint=herd.url, token=False, allow_patterns="*.json")
    with pytest.raises(IncompleteSnapshotError, match="consolidated"):
        snapshot_download(OPEN, endpoint=herd.url, local_files_only=True)


def test_not_a_hub(tmp_path: Path) -> None:
    """A web server with the right file at the right address."""
    page = tmp_path / OPEN / "resolve" / "main" / "config.json"
    page.parent.mkdir(parents=True)
    page.write_bytes(b"{}")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(LocalEntryNotFoundError) as found:
            hf_hub_download(OPEN, "config.json", endpoint=f"http://127.0.0.1:{server.server_port}", token=False)
        server.shutdown()
    assert isinstance(found.value.__cause__, FileMetadataError)


def test_a_wrong_byte_is_let_pass(herd: FakeHub) -> None:
    herd.faults = Faults(flip=5)
    assert Path(get(herd, OPEN)).read_bytes() != FILES[PTH]
    herd.clear()
    herd.faults = Faults()
    assert Path(get(herd, OPEN)).read_bytes() != FILES[PTH], "and stays"
    assert herd.sent_bytes() == 0


def test_a_pattern_that_matches_nothing_is_let_pass(herd: FakeHub) -> None:
    assert snapshot_download(OPEN, endpoint=herd.url, token=False, allow_patterns="*.safetensors")


def test_one_503_ends_a_download(herd: FakeHub) -> None:
    herd.faults = Faults(status=503, first=1)
    with pytest.raises(HfHubHTTPError, match="503"):
        get(herd, OPEN)


def test_an_update_deletes_the_good_file_first(herd: FakeHub, tmp_path: Path) -> None:
    path = Path(get(herd, OPEN, local_dir=tmp_path))
    herd.add(OPEN, {PTH: b"new" * 1000})
    herd.faults = Faults(status=503)
    with pytest.raises(HfHubHTTPError):
        get(herd, OPEN, local_dir=tmp_path)
    assert not path.exists()


def test_xet_is_off_by_a_constant(herd: FakeHub) -> None:
    """Set after the import, which the environment variable is too late for."""
    herd.xet = "stalled"
    assert constants.HF_HUB_DISABLE_XET is True
    assert Path(get(herd, OPEN)).read_bytes() == FILES[PTH]
