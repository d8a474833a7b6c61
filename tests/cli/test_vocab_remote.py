"""`vocab organisation/name`: the same as of the local folder, and no weights come for it, counted by the server."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from llama_convert.cli.demo import EMBEDDED
from llama_convert.convert.containers import WEIGHTS
from llama_convert.hub.client_cache import repository_folder
from tests.checkpoints import Case
from tests.cli.conftest import BY_NAME, NAME, PAGE, Add, Run, check_refusal
from tests.hub.fake_hub import Account, FakeHub

ASKED = ("--special", "--sample", 20, "--id", 300, "--text", "Größe 日本 llama", "--json")


def told(run: Run, *sources: object) -> dict[str, Any]:
    result = run("vocab", *sources, *ASKED)
    assert result.status == 0, result.err
    return dict(result.json)


def nameless(found: dict[str, Any]) -> dict[str, Any]:
    """All but where it lies."""
    sides = [{key: side[key] for key in side if key not in ("path", "tokenizer")} for side in found["vocabularies"]]
    return {**found, "vocabularies": sides}


def sent(hub: FakeHub) -> dict[str, int]:
    """Bytes that came of each file, by its name."""
    counted: dict[str, int] = defaultdict(int)
    for request in hub.requests:
        if "/api/" not in request.path:
            counted[Path(request.path.partition("?")[0]).name] += request.sent_bytes
    return {name: nbytes for name, nbytes in counted.items() if nbytes}


def of_weights(hub: FakeHub) -> int:
    return sum(nbytes for name, nbytes in sent(hub).items() if Path(name).suffix in WEIGHTS)


def commit_of(hub: FakeHub) -> str:
    return hub.repositories[NAME].refs["main"]


@pytest.mark.parametrize("name", ["3-2shards", "2-2shards"])
def test_original(name: str, run: Run, add: Add, meta_checkpoint: Callable[[Case], Path]) -> None:
    """Ranks and a SentencePiece model. Of each shard what `inspect` reads comes, of the tokenizer each byte once."""
    folder = meta_checkpoint(BY_NAME[name])
    hub = add(original=folder)
    found = told(run, NAME)
    shards = len(list(folder.glob("*.pth")))
    assert nameless(found) == nameless(told(run, folder))
    assert 0 < of_weights(hub) <= shards * 3 * PAGE < sum(path.stat().st_size for path in folder.glob("*.pth"))
    assert sent(hub)["tokenizer.model"] == (folder / "tokenizer.model").stat().st_size
    commit = commit_of(hub)[:12]
    (side,) = found["vocabularies"]
    assert (side["path"], side["tokenizer"]) == (
        f"{NAME}@{commit}/original",
        f"{NAME}@{commit}/original/tokenizer.model",
    )


def test_hugging_face_and_gguf(run: Run, add: Add, converted: Path, gguf: Path) -> None:
    hub = add(root=converted, quantised=gguf)
    assert nameless(told(run, NAME)) == nameless(told(run, converted))
    shards = len(list(converted.glob("*.safetensors")))
    assert of_weights(hub) == shards * PAGE
    hub.clear()
    file = min(gguf.glob("*.gguf"))
    assert nameless(told(run, NAME, "--what", "gguf")) == nameless(told(run, file))
    assert hub.sent_bytes() < sum(path.stat().st_size for path in gguf.glob("*.gguf"))


def test_beside_a_folder_and_beside_another(run: Run, add: Add, converted: Path) -> None:
    commit = commit_of(add(root=converted))
    assert nameless(told(run, EMBEDDED, NAME)) == nameless(told(run, EMBEDDED, converted))
    assert nameless(told(run, f"{NAME}@{commit}", EMBEDDED)) == nameless(told(run, converted, EMBEDDED))
    lent = told(run, NAME, "--tokenizer-path", EMBEDDED / "tokenizer.model")["vocabularies"][0]
    assert lent["tokenizer"] == str(EMBEDDED / "tokenizer.model")


def test_names_of_special_tokens_beside_the_ranks(run: Run, add: Add, source: Callable[..., Path]) -> None:
    folder = source("3-2shards")
    special = told(run, folder)["special"]
    names = [token["text"] for (token,) in special]
    (folder / "special_tokens.json").write_text(json.dumps([*names[:-1], "<|luna|>"]))
    add(original=folder)
    assert told(run, NAME)["special"] == told(run, folder)["special"] != special


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_a_closed_gate(token: str | None, run: Run, add: Add, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = add(gated=True, root=converted)
    if token:
        hub.tokens[token] = Account(name="somebody")
        monkeypatch.setenv("HF_TOKEN", token)
    for sources in ([NAME], [EMBEDDED, NAME]):
        refused = run("vocab", *sources)
        assert (refused.status, refused.out, len(refused.complaint)) == (4, "", 2)
        assert "gated" in refused.complaint[0]
        assert not token or token not in refused.err
    assert hub.sent_bytes() == 0
    hub.tokens["hf_good"] = Account(name="reader", may_read={NAME})
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert nameless(told(run, NAME)) == nameless(told(run, converted))


@pytest.mark.parametrize("what", ["hf", "original"])
def test_what_is_complete_in_the_cache(
    what: str, run: Run, add: Add, converted: Path, meta_checkpoint: Callable[[Case], Path]
) -> None:
    """Not one request, whichever checkpoint it is; one file less, and the Hub is asked, for that file alone."""
    folders = {"hf": converted, "original": meta_checkpoint(BY_NAME["3-2shards"])}
    hub = add(root=converted, original=folders["original"])
    assert run("download", NAME, "--what", what).status == 0
    hub.clear()
    found = run("vocab", NAME, *ASKED)
    assert nameless(found.json) == nameless(told(run, folders[what]))
    assert hub.requests == []
    commit = commit_of(hub)
    assert found.err == f"{NAME}: from the cache, at commit {commit}\n"
    assert str(repository_folder(NAME)) not in found.out

    place = "" if what == "hf" else "original/"
    name = "config.json" if what == "hf" else "params.json"
    (repository_folder(NAME) / "snapshots" / commit / place / name).resolve().unlink()
    assert nameless(told(run, NAME, "--what", what)) == nameless(found.json)
    assert sent(hub).keys() == {name}


def test_a_cache_that_does_not_know_what_it_lacks(run: Run, add: Add, converted: Path) -> None:
    """A snapshot without a listing and without a shard: nobody can tell, so the Hub is asked."""
    hub = add(root=converted)
    assert run("download", NAME).status == 0
    folder = repository_folder(NAME)
    shutil.rmtree(folder / "trees")
    shard = folder / "snapshots" / commit_of(hub) / "model-00002-of-00004.safetensors"
    shard.resolve().unlink()
    shard.unlink()
    hub.clear()
    assert nameless(told(run, NAME)) == nameless(told(run, converted))
    assert sent(hub) == {shard.name: PAGE}


def test_a_newer_commit_is_seen_once_it_is_downloaded(run: Run, add: Add, converted: Path) -> None:
    hub = add(root=converted)
    assert run("download", NAME).status == 0
    newer = hub.add(NAME, {"README.md": b"More of it."})
    assert newer[:12] not in run("vocab", NAME).out
    assert newer[:12] in run("vocab", f"{NAME}@{newer}").out
    assert run("download", NAME).status == 0
    assert newer[:12] in run("vocab", NAME).out


def test_offline(run: Run, add: Add, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inspect` reads the cache as well then, and says nothing of gates and licences, which it cannot know."""
    hub = add(gated=True, root=converted)
    hub.tokens["hf_good"] = Account(name="reader", may_read={NAME})
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert run("inspect", NAME, "--json").json["repository"]["gated"] is True
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for command in ("vocab", "inspect"):
        refused = run(command, NAME)
        check_refusal(refused, 4)
        assert "offline mode is on" in refused.err
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert run("download", NAME).status == 0
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.clear()
    assert nameless(told(run, NAME)) == nameless(told(run, converted))
    shown, data = run("inspect", NAME).out, run("inspect", NAME, "--json").json
    assert (data["repository"]["gated"], data["parameters"]) == (
        None,
        run("inspect", converted, "--json").json["parameters"],
    )
    assert "the Hub was not asked" in shown
    assert "gated" not in shown
    assert hub.requests == []


def test_what_is_here_comes_first(
    run: Run, add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: Path
) -> None:
    hub = add(root=converted)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EMBEDDED, NAME)
    assert told(run, NAME)["vocabularies"][0]["path"] == NAME
    assert hub.requests == []
    check_refusal(run("vocab", NAME, "--what", "hf"), 2)


def test_refusals(run: Run, add: Add, converted: Path, gguf: Path) -> None:
    hub = add(root=converted)
    check_refusal(run("vocab", "no/such/folder"), 2)
    check_refusal(run("vocab", EMBEDDED, "--what", "hf"), 2)
    assert hub.requests == []
    check_refusal(run("vocab", NAME, "--what", "tokenizer"), 2)
    check_refusal(run("vocab", NAME, "--what", "original"), 2)
    absent = run("vocab", EMBEDDED, "herd/none")
    check_refusal(absent, 4)
    assert "herd/none: not found, or private" in absent.err
    assert "and there is no such folder or file here" in absent.err


def test_a_tokenizer_that_is_none(run: Run, add: Add, source: Callable[..., Path], tmp_path: Path) -> None:
    """Named as the user knows it, without a path of the folder that it was laid out in."""
    folder = source("2-2shards")
    path = folder / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:2000])
    add(original=folder)
    refused = run("vocab", NAME)
    check_refusal(refused, 3)
    assert refused.complaint[0].startswith(f"llama-convert: {NAME}@")
    assert "/original/tokenizer.model: sentencepiece cannot read it" in refused.complaint[0]
    assert str(tmp_path) not in refused.err
