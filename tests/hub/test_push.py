"""`push`: only what is whole and verified, with its card, nothing sent twice; by the real client to the fake Hub."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llama_convert.cli import main
from tests.checkpoints import CASES, Case
from tests.cli.commands import Result
from tests.hub.fake_hub import Account, FakeHub, Faults

NAME, TOKEN = "herd/llama", "hf_writer"
Run = Callable[..., Result]


@pytest.fixture(scope="session")
def verified(meta_checkpoint: Callable[[Case], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted and verified folder with four weight files; read only."""
    handler = signal.getsignal(signal.SIGTERM)
    case = next(case for case in CASES if case.name == "3-2shards")
    folder = tmp_path_factory.mktemp("verified") / "model"
    command = ["convert", meta_checkpoint(case), folder, "-q", "--shard-size", "1MB", "--verify"]
    assert main([str(word) for word in command]) == 0
    signal.signal(signal.SIGTERM, handler)
    return folder


@pytest.fixture
def folder(verified: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(verified, tmp_path / "model"))


@pytest.fixture
def herd(hub: FakeHub) -> FakeHub:
    hub.tokens[TOKEN] = Account(name="writer", kind="write", may_write={"herd"})
    hub.tokens["hf_other"] = Account(name="other", kind="write")
    return hub


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sent(hub: FakeHub) -> int:
    """Bytes of large files that were uploaded."""
    return sum(request.received_bytes for request in hub.requests if request.host == "cdn")


def test_a_verified_folder_with_its_card(run: Run, herd: FakeHub, folder: Path) -> None:
    before = contents(folder)
    done = run("push", folder, NAME, "--json", token=TOKEN)
    assert done.status == 0, done.err
    assert contents(folder) == before, "nothing is written into the folder"
    found = herd.files(NAME)
    card = found.pop("README.md").decode()
    found.pop(".gitattributes")
    assert found == before
    told = done.json
    assert (told["ok"], told["repository"], told["card"], told["pull_request"]) == (True, NAME, "written", None)
    assert told["url"].startswith(f"{herd.url}/{NAME}/commit/")
    assert told["files"] == sorted([*before, "README.md"])
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "llama3"
    assert not herd.repositories[NAME].private
    assert all("authorization" not in request.headers for request in herd.requests if request.host == "cdn")
    assert TOKEN not in done.out + done.err


def test_run_again_nothing_is_sent(run: Run, herd: FakeHub, folder: Path) -> None:
    run("push", folder, NAME, token=TOKEN)
    commits = len(herd.repositories[NAME].commits)
    assert sent(herd) > 2_000_000
    herd.clear()
    again = run("push", folder, NAME, token=TOKEN)
    assert again.status == 0
    assert "everything is there already" in again.out
    assert (sent(herd), len(herd.repositories[NAME].commits)) == (0, commits)
    herd.clear()
    (folder / "LICENSE").write_text("the licence\n" * 200)
    assert "pushed to" in run("push", folder, NAME, token=TOKEN).out
    assert sent(herd) == (folder / "LICENSE").stat().st_size, "and only what is new"


def test_an_upload_that_broke_off_goes_on(run: Run, herd: FakeHub, folder: Path) -> None:
    herd.faults = Faults(status=400, on="upload", first=1)
    broken = run("push", folder, NAME, token=TOKEN)
    assert broken.status == 4, broken.err
    assert broken.complaint[0].endswith("herd/llama: the upload broke off")
    assert "README.md" not in herd.files(NAME), "no commit without its files"
    kept = [request for request in herd.requests if request.host == "cdn" and request.status == 200]
    herd.clear()
    assert run("push", folder, NAME, token=TOKEN).status == 0
    rest = [request for request in herd.requests if request.host == "cdn"]
    sent_once = [request.path.split("/")[2] for request in (*kept, *rest)]
    assert len(kept) > 0
    assert len(rest) > 0
    assert len(set(sent_once)) == len(sent_once), "a file that had arrived was sent again"
    assert set(contents(folder)) < set(herd.files(NAME))


@pytest.mark.parametrize("token", [TOKEN, "hf_other"])
def test_a_pull_request_is_continued(run: Run, herd: FakeHub, folder: Path, token: str) -> None:
    """Everyone may open one; whoever runs it again goes on in it, until it is closed."""
    herd.add(NAME, {"README.md": b"theirs"})
    herd.faults = Faults(status=400, on="upload", first=1)
    assert run("push", folder, NAME, "--create-pr", token=token).status == 4
    done = run("push", folder, NAME, "--create-pr", "--json", token=token)
    assert done.status == 0, done.err
    assert done.json["pull_request"] == f"{herd.url}/{NAME}/discussions/1"
    assert herd.files(NAME) == {"README.md": b"theirs"}
    assert set(contents(folder)) < set(herd.files(NAME, "refs/pr/1"))
    (folder / "NOTICE").write_text("new")
    assert "continued pull request" in run("push", folder, NAME, "--create-pr", token=token).out
    assert "NOTICE" in herd.files(NAME, "refs/pr/1")
    herd.repositories[NAME].pull_requests[0].status = "closed"
    (folder / "NOTICE").write_text("newer")
    assert (
        f"opened pull request {herd.url}/{NAME}/discussions/2"
        in run("push", folder, NAME, "--create-pr", token=token).out
    )
    assert [pull.author for pull in herd.repositories[NAME].pull_requests] == [herd.tokens[token].name] * 2


def test_a_card_of_ones_own_stays(run: Run, herd: FakeHub, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    (folder / ".env").write_text("HF_TOKEN=hf_of_the_user")
    assert run("push", folder, NAME, "--json", token=TOKEN).json["card"] == "own"
    assert herd.files(NAME)["README.md"] == b"---\nlicense: mit\n---\nMine.\n"
    assert ".env" not in herd.files(NAME), "a hidden file is no part of a model"


def test_private(run: Run, herd: FakeHub, folder: Path) -> None:
    assert run("push", folder, NAME, "--private", token=TOKEN).status == 0
    assert herd.repositories[NAME].private
    assert run("push", folder, NAME, "--private", token=TOKEN).status == 0
    herd.add("herd/open", {"a.txt": b"a"})
    refused = run("push", folder, "herd/open", "--private", token=TOKEN)
    assert refused.status == 4
    assert "herd/open: is there already, and public" in refused.err
    assert list(herd.files("herd/open")) == ["a.txt"]


def change(folder: Path, name: str, value: object) -> None:
    values = json.loads((folder / "conversion.json").read_text())
    values[name] = value
    (folder / "conversion.json").write_text(json.dumps(values))


def never_verified(folder: Path) -> None:
    change(folder, "verified", None)


def found_wrong(folder: Path) -> None:
    verdict = json.loads((folder / "conversion.json").read_text())["verified"]
    change(folder, "verified", verdict | {"ok": False})


def one_byte(folder: Path) -> None:
    path = min(folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def a_file_less(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_certificate(folder: Path) -> None:
    (folder / "conversion.json").unlink()


@pytest.mark.parametrize(
    ("damage", "status", "words", "command"),
    [
        (never_verified, 2, "was never verified", "llama-convert verify SRC {}."),
        (found_wrong, 1, "NOT THE SAME MODEL AS", "llama-convert convert SRC {} --to hf --verify --overwrite."),
        (one_byte, 1, "NOT AS IT WAS WRITTEN, nothing is pushed", ""),
        (a_file_less, 1, "config.json is missing", ""),
        (no_certificate, 2, "there is no conversion.json in it", "llama-convert convert SRC {} --verify."),
    ],
)
def test_what_is_not_pushed(
    run: Run, herd: FakeHub, folder: Path, damage: Callable[[Path], None], status: int, words: str, command: str
) -> None:
    damage(folder)
    done = run("push", folder, NAME, token=TOKEN)
    assert done.status == status, done.err
    assert words in done.out + done.err
    assert herd.repositories == {}, "not even an empty repository is left"
    assert done.err.rstrip().endswith(command.format(folder)), "the command to type"
    told = run("push", folder, NAME, "--json", token=TOKEN).json
    assert (told["ok"], told["status"]) == (False, status)


@pytest.mark.parametrize(
    ("repository", "token", "words"),
    [
        (NAME, None, "herd/llama: there is no token"),
        (NAME, "hf_unknown", "herd/llama: the token (HF_TOKEN) is not accepted"),
        (NAME, "hf_other", "herd/llama: the token has no permission for this"),
        ("a/b/c", TOKEN, "a/b/c: not the name of a repository"),
    ],
)
def test_no_access(run: Run, herd: FakeHub, folder: Path, repository: str, token: str | None, words: str) -> None:
    done = run("push", folder, repository, token=token)
    assert done.status == 4
    assert done.complaint[0].startswith(f"llama-convert: {words}")
    assert herd.repositories == {}
    assert not token or token not in done.out + done.err


def test_over_xet(run: Run, herd: FakeHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's other way to upload: in a process of its own, which knows the Hub by its environment; then again."""
    pytest.importorskip("hf_xet")
    herd.xet = True
    herd.add(NAME, {".gitattributes": b""})
    known = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, **herd.environment}
    command = ["push", folder, NAME, "--create-pr", "--json"]
    program = Path(sys.executable).with_name("llama-convert")
    done = subprocess.run([program, *command], env=known, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    again = run(*command, token=TOKEN)
    pull_request = f"{herd.url}/{NAME}/discussions/1"
    for out, changed in ((done.stdout, True), (again.out, False)):
        told = json.loads(out)
        assert (told["changed"], told["pull_request"]) == (changed, pull_request)
    assert set(contents(folder)) < set(herd.repositories[NAME].at("refs/pr/1").files)
    assert sent(herd) == 0, "nothing went past Xet"
    assert any("xet-write-token" in request.path for request in herd.requests)
