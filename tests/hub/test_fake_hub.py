"""The fake Hub, spoken to by the real client: what the other tests rest on."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.client import IncompleteRead
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from tests.hub.fake_hub import Account, FakeHub, Faults

NAME = "herd/llama"
WEIGHTS = os.urandom(100_000)
FILES = {"config.json": b"{}\n", "original/params.json": b'{"dim": 8}', "original/consolidated.00.pth": WEIGHTS}
PTH = "original/consolidated.00.pth"


def fetched(hub: FakeHub, path: str = PTH, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """A plain client's GET, redirects followed: status, body, headers."""
    request = urllib.request.Request(f"{hub.url}/{NAME}/resolve/main/{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def snapshot(hub: FakeHub, folder: Path, **options: object) -> dict[str, bytes]:
    """What the real client downloads."""
    path = Path(snapshot_download(NAME, endpoint=hub.url, local_dir=folder, **options))
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and ".cache" not in file.parts
    }


def test_download_and_listing(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.add(NAME, FILES)
    assert snapshot(hub, tmp_path) == FILES
    api = HfApi(endpoint=hub.url)
    info = api.model_info(NAME, files_metadata=True)
    assert (info.sha, info.gated) == (commit, False)
    by_path = {entry.path: entry for entry in api.list_repo_tree(NAME, recursive=True) if hasattr(entry, "size")}
    assert set(by_path) == set(FILES)
    assert by_path[PTH].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert by_path["config.json"].blob_id == hashlib.sha1(b"blob 3\0{}\n").hexdigest()
    assert by_path["config.json"].lfs is None
    assert [entry.path for entry in api.list_repo_tree(NAME)] == ["original", "config.json"]
    assert api.verify_repo_checksums(NAME, local_dir=tmp_path, token=False).mismatches == []
    (tmp_path / "config.json").write_bytes(b"[]\n")
    assert len(api.verify_repo_checksums(NAME, local_dir=tmp_path, token=False).mismatches) == 1


def test_pages(hub: FakeHub) -> None:
    hub.add(NAME, {f"{number:02}.txt": b"x" for number in range(25)})
    hub.page_size = 10
    assert len(list(HfApi(endpoint=hub.url).list_repo_tree(NAME, recursive=True))) == 25
    assert len([request for request in hub.requests if "/tree/" in request.path]) == 3


def test_commits_stay_readable(hub: FakeHub, tmp_path: Path) -> None:
    first = hub.add(NAME, FILES)
    second = hub.add(NAME, {"config.json": b"[]\n", "original/params.json": None})
    assert snapshot(hub, tmp_path / "old", revision=first) == FILES
    assert set(snapshot(hub, tmp_path / "new")) == {"config.json", PTH}
    assert HfApi(endpoint=hub.url).list_repo_refs(NAME).branches[0].target_commit == second != first


@pytest.mark.parametrize(
    ("token", "error", "status"),
    [
        (False, GatedRepoError, 401),
        ("hf_not_approved", GatedRepoError, 403),
        ("hf_narrow", HfHubHTTPError, 403),
        ("hf_unknown", HfHubHTTPError, 401),
        ("hf_good", None, 200),
    ],
)
def test_gate(hub: FakeHub, tmp_path: Path, token: str | bool, error: type[HfHubHTTPError] | None, status: int) -> None:
    hub.add(NAME, FILES, gated=True)
    hub.tokens = {
        "hf_good": Account(name="reader", may_read={NAME}),
        "hf_not_approved": Account(name="other"),
        "hf_narrow": Account(name="narrow", may_read={NAME}, gated_permission=False),
    }
    if error is None:
        assert snapshot(hub, tmp_path, token=token) == FILES
        return
    with pytest.raises(error) as found:
        HfApi(endpoint=hub.url).auth_check(NAME, token=token)
    assert (type(found.value), found.value.response.status_code) == (error, status)
    assert fetched(hub, **({"Authorization": f"Bearer {token}"} if token else {}))[0] == status
    assert hub.sent_bytes() == 0


def test_the_token_stays_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(NAME, FILES, gated=True)
    hub.tokens["hf_good"] = Account(name="reader", may_read={NAME})
    snapshot(hub, tmp_path, token="hf_good")
    sent = {request.host: request.headers.get("authorization") for request in hub.requests}
    assert sent == {"hub": "Bearer hf_good", "cdn": None}


def test_renamed_and_removed(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("herd/old", FILES)
    hub.rename("herd/old", NAME)
    assert Path(hf_hub_download("herd/old", PTH, endpoint=hub.url, token=False)).read_bytes() == WEIGHTS
    assert HfApi(endpoint=hub.url).model_info("herd/old").id == NAME
    hub.remove(NAME)
    hub.tokens["hf_good"] = Account(name="reader")
    for token, status in ((False, 401), ("hf_good", 404)):
        with pytest.raises(RepositoryNotFoundError) as found:
            HfApi(endpoint=hub.url).model_info(NAME, token=token)
        assert found.value.response.status_code == status


@pytest.mark.parametrize("path", [PTH, "config.json"])
def test_ranges(hub: FakeHub, path: str) -> None:
    hub.add(NAME, FILES)
    data = FILES[path]
    assert fetched(hub, path, Range="bytes=1-2")[:2] == (206, data[1:3])
    assert fetched(hub, path, Range="bytes=-2")[:2] == (206, data[-2:])
    assert fetched(hub, path, Range=f"bytes=1-{len(data) + 9}")[:2] == (206, data[1:])
    assert fetched(hub, path, Range=f"bytes={len(data)}-")[0] == 416
    host = "cdn" if path == PTH else "hub"
    ranges = [request.range for request in hub.requests if request.host == host and request.status == 206]
    assert ranges == [(1, 3), (len(data) - 2, len(data)), (1, len(data))]


@pytest.mark.parametrize("on_disk", [False, True])
def test_faulty_bodies(hub: FakeHub, tmp_path: Path, on_disk: bool) -> None:
    source = tmp_path / "weights"
    source.write_bytes(WEIGHTS)
    hub.add(NAME, {PTH: source if on_disk else WEIGHTS})
    hub.faults = Faults(flip=70_000)
    assert [at for at, byte in enumerate(fetched(hub)[1]) if byte != WEIGHTS[at]] == [70_000]
    assert fetched(hub, Range="bytes=60000-69999")[1] == WEIGHTS[60_000:70_000]
    hub.faults = Faults(ignore_range=True)
    assert fetched(hub, Range="bytes=5-6")[:2] == (200, WEIGHTS)
    hub.faults = Faults(html=True, suffix=".pth")
    assert fetched(hub)[1].startswith(b"<!DOCTYPE html>")
    hub.faults = Faults(html=True, suffix=".json")
    assert fetched(hub)[1] == WEIGHTS
    hub.faults = Faults(stall=0.4, stall_after=50_000)
    started = time.monotonic()
    assert fetched(hub)[1] == WEIGHTS
    assert time.monotonic() - started >= 0.4
    hub.faults = Faults(slow=400_000)
    started = time.monotonic()
    assert fetched(hub)[1] == WEIGHTS
    assert 0.2 <= time.monotonic() - started < 2
    hub.faults = Faults(length_error=-10)
    assert fetched(hub)[1] == WEIGHTS[:-10]


def test_cut(hub: FakeHub) -> None:
    hub.add(NAME, {PTH: WEIGHTS})
    hub.faults = Faults(cut_after=60_000, first=1)
    with pytest.raises(IncompleteRead):
        fetched(hub)
    assert hub.sent_bytes() == 60_000
    assert fetched(hub)[1] == WEIGHTS


def test_statuses_and_counts(hub: FakeHub) -> None:
    hub.add(NAME, FILES)
    hub.faults = [Faults(status=503, retry_after=7, first=2), Faults(status=429, on="head", first=1, suffix=".pth")]
    status, _, headers = fetched(hub)  # at the redirect
    assert (status, headers.get("Retry-After")) == (429, None)
    assert [fetched(hub)[0] for _ in range(3)] == [503, 503, 200]
    hub.faults = Faults(status=500, on="api")
    with pytest.raises(HfHubHTTPError, match="500"):
        HfApi(endpoint=hub.url).model_info(NAME)
    assert fetched(hub)[0] == 200


def test_signatures(hub: FakeHub) -> None:
    hub.add(NAME, FILES)
    assert fetched(hub)[0] == 200
    signed = next(request for request in hub.requests if request.host == "cdn")

    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(hub.cdn_url + path) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    assert status(signed.path) == 200
    assert status(signed.path[:-1] + ("0" if signed.path[-1] != "0" else "1")) == 403
    hub.faults = Faults(dead_signatures=1)
    assert [fetched(hub)[0] for _ in range(2)] == [403, 200]
    hub.faults = Faults(expired=0.1)
    time.sleep(0.15)
    assert (status(signed.path), fetched(hub)[0]) == (403, 200)


def test_slow_head(hub: FakeHub) -> None:
    hub.add(NAME, FILES)
    hub.faults = Faults(head_delay=0.3, first=1)
    started = time.monotonic()
    hf_hub_download(NAME, "config.json", endpoint=hub.url, token=False)
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("xet", [True, "stalled"])
def test_xet(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xet: bool | str) -> None:
    """The real Xet library fetches from a local storage, or waits for one that does not answer."""
    pytest.importorskip("hf_xet")
    hub.add(NAME, FILES)
    hub.xet = xet
    code = f"from huggingface_hub import snapshot_download; print(snapshot_download({NAME!r}))"
    known = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path), **hub.environment}
    asked = subprocess.Popen([sys.executable, "-c", code], env=known, stdout=subprocess.PIPE, text=True)
    if xet == "stalled":
        with pytest.raises(subprocess.TimeoutExpired):
            asked.wait(3)
        asked.kill()
        asked.wait()
    else:
        found = Path(asked.communicate(timeout=60)[0].strip())
        assert (found / PTH).read_bytes() == WEIGHTS
    assert any("xet-read-token" in request.path for request in hub.requests)
    assert hub.sent_bytes() == 0, "nothing came over plain HTTP"


def test_served_from_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "model.gguf").write_bytes(WEIGHTS)
    command = [sys.executable, "-m", "tests.hub.fake_hub", tmp_path]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        url = server.stdout.readline().strip()
        path = hf_hub_download("bench/model", "sub/model.gguf", endpoint=url, token=False)
        assert Path(path).read_bytes() == WEIGHTS
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_upload(hub: FakeHub, tmp_path: Path) -> None:
    hub.tokens["hf_writer"] = Account(name="writer", kind="write", may_write={"herd"})
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "README.md").write_text("---\nlicense: llama3\n---\nA model.\n")
    api = HfApi(endpoint=hub.url, token="hf_writer")
    api.create_repo(NAME)
    api.upload_folder(repo_id=NAME, folder_path=tmp_path)
    assert {name: data for name, data in hub.files(NAME).items() if name in FILES} == FILES
    hub.clear()
    api.upload_folder(repo_id=NAME, folder_path=tmp_path)
    assert sum(request.received_bytes for request in hub.requests if request.host == "cdn") == 0
    with pytest.raises(HfHubHTTPError, match="rights"):
        HfApi(endpoint=hub.url, token="hf_writer").create_repo("other/llama")


def test_no_token_of_the_user(hub: FakeHub) -> None:
    """The isolation of the tests themselves."""
    hub.add(NAME, FILES)
    HfApi(endpoint=hub.url).model_info(NAME)
    assert "authorization" not in hub.requests[-1].headers
    assert not Path(constants.HF_TOKEN_PATH).exists()
