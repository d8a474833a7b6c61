"""`inspect organisation/name`: the same as of a local folder, for a few hundred kilobytes, counted by the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama_convert.convert import inspect_checkpoint
from llama_convert.convert.containers.pth_writer import lay_out
from llama_convert.convert.containers.slices import DType
from tests.checkpoints import shapes, write_meta
from tests.cli.conftest import BY_NAME, NAME, PAGE, Add, Run
from tests.hub.fake_hub import Account, FakeHub
from tests.hub.fake_hub.contents import Blob
from tests.small_tokenizers import small_tiktoken


def told(run: Run, *options: object) -> dict[str, Any]:
    """What --json says of the repository."""
    result = run("inspect", NAME, "--tensors", "--json", *options)
    assert result.status == 0, result.err
    return dict(result.json)


def assert_like(found: dict[str, Any], folder: Path, place: str, name: str = "") -> None:
    """The same as of the local folder but for its path; place: in the repository."""
    local = inspect_checkpoint(folder / name if name else folder).as_json(tensors=True)
    local = json.loads(json.dumps(local))
    for values in (found, local):
        values.pop("ok", None)
    there = f"{NAME}@{found['repository']['commit'][:12]}{place}"
    assert found.pop("path") == (f"{there}/{name}" if name else there)
    assert found["tokenizer"].pop("path").startswith(there.partition("@")[0] + "@")
    local["tokenizer"].pop("path")
    local.pop("path")
    found.pop("repository")
    assert found == local


LAYOUTS: list[tuple[str, dict[str, Any]]] = [
    ("3-2shards", {}),
    ("2-grouped-8shards", {}),
    ("3.1-16shards-kv-twice", {}),
    ("3.2", {}),
    ("3.2-tied-by-value", {}),
    ("3.2", {"shared_storage": True}),
    ("1", {"strided": True, "rope_freqs": True}),
]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_original(name: str, layout: dict[str, Any], run: Run, add: Add, tmp_path: Path) -> None:
    """Three requests and two pages for each shard, whatever they hold; no weight is read for its values."""
    folder = BY_NAME[name].write(tmp_path / "source", **layout)
    hub = add(original=folder)
    assert_like(told(run), folder, "/original")
    weights = [request for request in hub.requests if ".pth" in request.path]
    shards = BY_NAME[name].shards
    assert len(weights) == 3 * shards
    assert sum(request.sent_bytes for request in weights) <= shards * 3 * PAGE


def test_heads_told_apart_across_axes(run: Run, add: Add, tmp_path: Path) -> None:
    """Llama 2 splits embedding and head on different axes: no checksum tells, a row of each shard does."""
    folder = BY_NAME["2-2shards"].write(tmp_path / "source")
    hub = add(original=folder)
    found = told(run)
    assert found["config"]["tied"] is False
    assert_like(found, folder, "/original")
    assert len([request for request in hub.requests if ".pth" in request.path]) <= 2 * (3 + 3)


def test_sharded_safetensors(run: Run, add: Add, converted: Path) -> None:
    hub = add(root=converted)
    assert_like(told(run), converted, "")
    weights = [request for request in hub.requests if request.path.split("?")[0].endswith(".safetensors")]
    assert len(weights) == 2 * 4
    assert sum(request.sent_bytes for request in weights) == 4 * PAGE
    assert not [request for request in hub.requests if request.path.endswith("tokenizer.json")]


def test_gguf(run: Run, add: Add, gguf: Path) -> None:
    hub = add(root=gguf)
    names = sorted(path.name for path in gguf.glob("*.gguf"))
    assert_like(told(run), gguf, "", names[0])
    ranges = [(request.path.partition("?")[0], request.range) for request in hub.requests if request.host == "cdn"]
    assert len(ranges) == len(set(ranges)) == 2 * len(names), "the header's first page, then the rest of a megabyte"
    assert hub.sent_bytes() <= sum(path.stat().st_size for path in gguf.glob("*.gguf"))


EIGHT_B = {
    "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024,
    "ffn_dim_multiplier": 1.3, "norm_eps": 1e-5, "rope_theta": 500000.0,
}  # fmt: skip


def test_an_8b_for_a_few_hundred_kilobytes(run: Run, hub: FakeHub, tmp_path: Path) -> None:
    """16 GB of holes with the header and the directory that torch writes for Llama 3 8B."""
    sizes = shapes(EIGHT_B, 128256)
    layout = lay_out("consolidated.00", [(name, DType.BFLOAT16, shape) for name, shape in sizes.items()])
    path = tmp_path / "consolidated.00.pth"
    with path.open("wb") as file:
        file.truncate(layout.size)
        for offset, piece in ((0, layout.header), *layout.trailer({name: n for n, name in enumerate(sizes, 1)})):
            file.seek(offset)
            file.write(piece)
    tokenizer = small_tiktoken(tmp_path / "tokenizer.model").read_bytes()
    hub.add(NAME, {"original/params.json": json.dumps(EIGHT_B).encode(), "original/tokenizer.model": tokenizer})
    blob = hub.keep(Blob(path, layout.size, "8" * 64))
    hub.repositories[NAME].commit({"original/consolidated.00.pth": blob}, "main", "weights")

    found = told(run)
    assert (found["parameters"], found["nbytes"]) == (8_030_261_248, layout.size)
    assert (len(found["tensors"]), found["config"]["tied"]) == (291, False)
    assert [(tensor["name"], tensor["offset"]) for tensor in found["tensors"]] == list(layout.offsets)
    assert hub.sent_bytes() <= 300_000
    assert len(hub.requests) <= 12
    assert found["repository"]["nbytes"] > layout.size


def test_what_else_there_is(run: Run, add: Add, converted: Path, gguf: Path, meta_checkpoint: Any) -> None:
    """hf comes before original before gguf; each can be chosen, and the others are named with their sizes."""
    folders = {"root": converted, "original": meta_checkpoint(BY_NAME["3-2shards"]), "other": gguf}
    add(**folders)
    formats = {}
    for what in (None, "original", "hf", "gguf"):
        found = told(run, *(["--what", what] if what else []))
        formats[what] = found["format"]
        assert len(found["repository"]["others"]) == 2
    assert formats == {None: "hf", "original": "meta", "hf": "hf", "gguf": "gguf"}
    text = run("inspect", NAME)
    assert [line.split()[0] for line in text.out.splitlines()][-5:] == ["download", "also", "also", "gated", "licence"]
    assert "--what original" in text.out
    refused = run("inspect", NAME, "--what", "mlx", "--json")
    assert (refused.status, refused.json["ok"]) == (2, False)
    assert run("inspect", NAME, "--what", "config").status == 2


def test_an_older_commit(run: Run, add: Add, converted: Path) -> None:
    hub = add(root=converted)
    first = told(run)
    hub.add(NAME, {"config.json": b"{}"})
    assert run("inspect", NAME).status == 3
    commit = first["repository"]["commit"]
    result = run("inspect", f"{NAME}@{commit}", "--tensors", "--json")
    assert result.json == first


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_a_closed_gate(token: str | None, run: Run, add: Add, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and sizes are known to everyone; the bytes are not, and the error says what to do."""
    hub = add(gated=True, root=converted)
    if token:
        hub.tokens[token] = Account(name="somebody")
        monkeypatch.setenv("HF_TOKEN", token)
    text, data = run("inspect", NAME), run("inspect", NAME, "--json")
    assert (text.status, data.status) == (4, 4)
    assert "model-00001-of-00004.safetensors" in text.out
    assert "gated" in text.complaint[0]
    found = data.json
    assert (found["ok"], found["status"], found["repository"]["gated"]) == (False, 4, True)
    sizes = {file["path"]: file["size"] for file in found["repository"]["files"]}
    assert sizes["config.json"] == (converted / "config.json").stat().st_size
    assert hub.sent_bytes() == 0
    for result in (text, data):
        assert not token or token not in result.out + result.err


def test_an_open_gate(run: Run, add: Add, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = add(gated=True, root=converted)
    hub.tokens["hf_good"] = Account(name="reader", may_read={NAME})
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert_like(told(run), converted, "")
    assert all("authorization" not in request.headers for request in hub.requests if request.host == "cdn")


def test_a_stream_from_before_torch_1_6_is_not_fetched(run: Run, add: Add, tmp_path: Path) -> None:
    folder = write_meta(BY_NAME["3"].model(), tmp_path / "source", legacy=True, tokenizer="tiktoken")
    hub = add(original=folder)
    result = run("inspect", NAME)
    assert result.status == 2
    assert "consolidated.00.pth: saved in the way before torch 1.6" in result.complaint[0]
    assert f"llama-convert download {NAME} --what original" in result.complaint[-1]
    assert hub.sent_bytes() <= 3 * PAGE


def test_damage_is_named_as_the_user_knows_it(run: Run, add: Add, tmp_path: Path) -> None:
    folder = BY_NAME["3"].write(tmp_path / "source", checklist=False)
    path = folder / "consolidated.00.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    (folder / "params.json").write_bytes(b"<html>sign in</html>")
    add(original=folder)
    result = run("inspect", NAME)
    assert result.status == 3
    assert "/original/params.json: this is an HTML page" in result.err
    assert str(tmp_path) not in result.err
    (folder / "params.json").write_text(json.dumps(BY_NAME["3"].model().params))
    add(original=folder)
    result = run("inspect", NAME)
    assert (result.status, result.out) == (3, "")
    assert result.complaint[0].startswith(f"llama-convert: {NAME}@")
    assert "/original/consolidated.00.pth: truncated" in result.complaint[0]
    assert str(tmp_path) not in result.err


def test_refusals(run: Run, add: Add, converted: Path) -> None:
    hub = add(root=converted)
    assert run("inspect", NAME, "--fingerprint").status == 2
    assert run("inspect", converted, "--what", "hf").status == 2
    assert run("inspect", "no/such/folder").status == 2
    assert hub.requests == []
    absent = run("inspect", "herd/none")
    assert (absent.status, "and there is no such folder or file here" in absent.err) == (4, True)
    hub.add("herd/text", {"README.md": b"nothing"})
    assert run("inspect", "herd/text").status == 2


def test_what_is_here_comes_first(run: Run, hub: FakeHub, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(converted.parent.parent)
    assert run("inspect", f"{converted.parent.name}/{converted.name}").status == 0
    assert hub.requests == []


def test_the_command_itself(add: Add, converted: Path) -> None:
    """A process of its own, that knows of the Hub from its environment."""
    hub = add(root=converted)
    command = [Path(sys.executable).with_name("llama-convert"), "inspect", NAME, "--json"]
    known = {"PATH": os.environ["PATH"], "HF_HOME": str(converted.parent / "home"), **hub.environment}
    done = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["format"] == "hf"
