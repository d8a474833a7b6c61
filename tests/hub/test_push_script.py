"""--push_to_hub of the old script: the output folder's name is the repository's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import CASES, Case
from tests.cli.commands import Result
from tests.hub.fake_hub import Account, FakeHub

CASE = next(case for case in CASES if case.name == "3-2shards")


@pytest.fixture
def push(
    run: Callable[..., Result],
    hub: FakeHub,
    meta_checkpoint: Callable[[Case], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    """(repository, token) -> the finished command, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    hub.tokens["hf_writer"] = Account(name="writer", kind="write", may_write={"herd"})
    hub.tokens["hf_other"] = Account(name="other", kind="write")
    folder = meta_checkpoint(CASE)
    return lambda repository, token: run(
        "--input_dir", folder, "--output_dir", repository, "--push_to_hub", "--json", token=token
    )


def test_the_folder_is_uploaded_as_it_lies(push: Callable[..., Result], hub: FakeHub, tmp_path: Path) -> None:
    done = push("herd/llama", "hf_writer")
    assert done.status == 0, done.err
    assert done.json["ok"] is True
    assert f"pushed to {hub.url}/herd/llama/commit/" in done.err
    folder = tmp_path / "herd" / "llama"
    written = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = hub.files("herd/llama")
    del found[".gitattributes"]  # the Hub's own
    assert found == written


@pytest.mark.parametrize(
    ("repository", "token", "words"),
    [
        ("herd/llama", None, "herd/llama: there is no token"),
        ("herd/llama", "hf_unknown", "herd/llama: the token (HF_TOKEN) is not accepted"),
        ("herd/llama", "hf_other", "herd/llama: the token has no permission for this"),
        ("a/b/c", "hf_writer", "a/b/c: not the name of a repository"),
    ],
    ids=["no token", "401", "403", "name"],
)
def test_refusals(
    push: Callable[..., Result], hub: FakeHub, tmp_path: Path, repository: str, token: str | None, words: str
) -> None:
    done = push(repository, token)
    assert done.status == 4, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert "hf_" not in done.err + done.out
    told = json.loads(done.out)
    assert (told["ok"], told["status"]) == (False, 4)
    assert told["advice"]
    assert not (tmp_path / repository).exists(), "told before the conversion, not after hours"
    assert hub.repositories == {}


def test_no_connection(push: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    done = push("herd/llama", "hf_writer")
    assert done.status == 4
    assert "herd/llama: no connection to http://127.0.0.1:9" in done.err
    assert "Traceback" not in done.err
