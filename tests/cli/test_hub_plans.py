"""`convert org/name --dry-run`: the whole plan from headers, the same as when all is here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from tests.checkpoints import Case, write_meta
from tests.cli.commands import Result, leftovers
from tests.cli.conftest import BY_NAME, OTHER, as_files
from tests.cli.hub_commands import User
from tests.hub.downloads import NAME, everything
from tests.hub.fake_hub import Account, FakeHub

Run = Callable[..., Result]
PAGE = 1 << 16
WEIGHTS = (".pth", ".safetensors", ".gguf")
REQUESTS: list[list[Any]] = [
    *(["--to", to] for to in ("hf", "meta", "scratch", "gguf", "mlx", "litgpt", "torchtune")),
    ["--to", "hf", "--dtype", "float32", "--shard-size", "1MB", "--pad"],
    ["--to", "gguf", "--quantize", "q4_0"],
    ["--to", "meta", "--shards", "2"],
]


def cache() -> Path:
    return Path(constants.HF_HUB_CACHE)


def written() -> list[dict[str, tuple[int, int]]]:
    return [everything(Path.home()), everything(cache())]


def weight_bytes(hub: FakeHub) -> int:
    return sum(
        request.sent_bytes
        for request in hub.requests
        if request.path.partition("?")[0].endswith(WEIGHTS) or request.host == "cdn"
    )


@pytest.fixture
def layouts(herd: FakeHub, converted: Path, meta_checkpoint: Callable[[Case], Path], tmp_path: Path) -> FakeHub:
    """One model in three repositories, of one layout each; the GGUF holds its norms in float32, as all do."""
    gguf = convert_checkpoint(
        plan_conversion(meta_checkpoint(BY_NAME["3-2shards"]), to="gguf", request=Request(shard_size=1_500_000)),
        tmp_path / "gguf",
    ).folder
    herd.add("herd/hf", as_files(converted))
    herd.add("herd/gguf", as_files(gguf))
    return herd


@pytest.mark.parametrize("name", [OTHER, "herd/hf", "herd/gguf"])
def test_the_plan_is_the_one_that_comes_after_the_download(layouts: FakeHub, run: Run, output: Path, name: str) -> None:
    before = written()
    far = []
    for options in REQUESTS:
        told = run("convert", name, output, "--dry-run", *options)
        assert told.status == 0, told.err
        download, _, plan = told.out.partition("\n\n")
        assert download.startswith(f"{name}: ")
        assert "to fetch" in download
        far.append((plan, run("convert", name, output, "--dry-run", "--json", *options).json))
    assert (written(), leftovers(output)) == (before, [])
    assert run("download", name).status == 0
    layouts.clear()
    before = written()
    for options, (plan, values) in zip(REQUESTS, far, strict=True):
        near = run("convert", name, output, "--dry-run", *options)
        assert (near.out, near.status) == (plan, 0)
        assert "all here" in near.err
        same = run("convert", name, output, "--dry-run", "--json", *options).json
        assert same["plan"] == values["plan"]
        assert (values["download"]["to_fetch"], same["download"]["to_fetch"]) == (values["download"]["nbytes"], 0)
    assert weight_bytes(layouts) == 0
    assert written() == before, "a dry run writes nothing"
    done = run("convert", name, output, "--to", "hf", "--no-verify", "--json")
    assert done.json["nbytes"] == far[0][1]["plan"]["nbytes"]


@pytest.mark.parametrize("command", [["pad"], ["resize", "--multiple-of", "100"]])
def test_pad_and_resize(layouts: FakeHub, run: Run, output: Path, command: list[str]) -> None:
    before = written()
    far = run(*command, OTHER, output, "--dry-run")
    assert ("to fetch" in far.out, written()) == (True, before)
    assert run("download", OTHER).status == 0
    assert run(*command, OTHER, output, "--dry-run").out == far.out.partition("\n\n")[2]


def test_headers_alone_are_fetched(layouts: FakeHub, run: Run, output: Path) -> None:
    """Two shards with three pages each; the tokenizer besides, which is looked at, too."""
    assert run("convert", OTHER, output, "--dry-run").status == 0
    weights = [request for request in layouts.requests if ".pth" in request.path]
    assert sum(request.sent_bytes for request in weights) <= 2 * 3 * PAGE


def test_what_is_here_is_not_asked_for(layouts: FakeHub, run: Run, output: Path) -> None:
    """One of the weight files came, and the small ones: they are read where they are."""
    whole = run("convert", "herd/hf", output, "--dry-run").out.partition("\n\n")[2]
    assert run("download", "herd/hf").status == 0
    (snapshot,) = cache().glob("models--herd--hf/snapshots/*")
    (snapshot / "model-00002-of-00004.safetensors").resolve().unlink()
    layouts.clear()
    again = run("convert", "herd/hf", output, "--dry-run")
    assert again.out.partition("\n\n")[2] == whole
    asked = {request.path.partition("?")[0].rpartition("/")[2] for request in layouts.requests if request.sent_bytes}
    assert len([name for name in asked if "/api/" not in name and name.endswith(".safetensors")]) <= 1
    assert weight_bytes(layouts) <= 2 * PAGE


def test_a_closed_gate_and_a_file_of_another_time(user: User, herd: FakeHub, run: Run, tmp_path: Path) -> None:
    """The download is told, and why no more is."""
    herd.add(NAME, {}, gated="manual")
    told = user.runs("convert", NAME, "output", "--dry-run")
    assert told.status == 0
    assert told.out.splitlines()[-1] == (
        f"The plan of the conversion cannot be told before that: {NAME}: gated, and there is no token"
    )
    herd.tokens["hf_good"] = Account(name="reader", may_read={NAME})
    assert (
        user.runs("convert", NAME, "output", "--dry-run", "--json", HF_TOKEN="hf_good").json["plan"]["target"] == "hf"
    )
    folder = write_meta(BY_NAME["3"].model(), tmp_path / "old", legacy=True, tokenizer="tiktoken")
    herd.add("herd/old", as_files(folder, "original/"))
    told = run("convert", "herd/old", "output", "--dry-run", "--json")
    assert (told.status, told.json["plan"], told.json["download"]["what"]) == (0, None, "original")


def test_what_will_be_refused_is_refused_now(layouts: FakeHub, run: Run, output: Path) -> None:
    refused = run("convert", OTHER, output, "--to", "meta", "--shards", "3", "--dry-run")
    assert (refused.status, refused.out) == (2, "")
    assert str(Path.home()) not in refused.err
