"""Which of a repository's checkpoints is converted: named by the user, or told by what is here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.containers.slices import DType
from tests.checkpoints import Case
from tests.cli.commands import Result
from tests.cli.conftest import BY_NAME, as_files, check_refusal
from tests.hub.downloads import NAME, file_bytes
from tests.hub.fake_hub import FakeHub

Run = Callable[..., Result]
WEIGHTS = (".pth", ".gguf", ".safetensors")


@pytest.fixture
def several(herd: FakeHub, meta_checkpoint: Callable[[Case], Path], tmp_path: Path) -> FakeHub:
    """Beside the model in two formats: two GGUF files, and its original split in two ways."""
    source = meta_checkpoint(BY_NAME["3-2shards"])
    for name, request in {"bf16": Request(), "q8_0": Request(quantize=DType.Q8_0)}.items():
        folder = convert_checkpoint(plan_conversion(source, to="gguf", request=request), tmp_path / name).folder
        (path,) = folder.glob("*.gguf")
        herd.add(NAME, {f"llama-{name.upper()}.gguf": path})
    split = convert_checkpoint(plan_conversion(source, to="meta", request=Request(shards=1)), tmp_path / "mp1").folder
    herd.add("herd/split", {**as_files(source, "original/mp2/"), **as_files(split, "original/mp1/")})
    return herd


def converted_from(output: Path) -> set[str]:
    """The weight files that the output was made of."""
    source = json.loads((output / "conversion.json").read_text())["source"]
    return {name for name in source["files"] if name.endswith(WEIGHTS)}


HF = {f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)}
ORIGINAL = {"consolidated.00.pth", "consolidated.01.pth"}


@pytest.mark.parametrize(
    ("name", "what", "files"),
    [
        (NAME, "hf", HF),
        (NAME, "gguf:BF16", {"llama-BF16.gguf"}),
        (NAME, "gguf:q8_0", {"llama-Q8_0.gguf"}),
        ("herd/split", "original:mp1", {"consolidated.00.pth"}),
        ("herd/split", "original:mp2", ORIGINAL),
    ],
)
def test_the_one_that_is_named(several: FakeHub, run: Run, output: Path, name: str, what: str, files: set[str]) -> None:
    planned = run("convert", name, output, "--what", what, "--dry-run", "--json").json
    assert planned["plan"]["target"] == "hf"
    done = run("convert", name, output, "--what", what, "--no-verify")
    assert done.status == 0, done.err
    assert converted_from(output) == files


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (NAME, ["--what", "gguf"], "gguf could be any of 2"),
        (NAME, ["--what", "gguf:Q4_0"], f"{NAME}: no gguf:Q4_0 there"),
        ("herd/split", [], "original could be any of 2"),
        (NAME, ["--what", "tokenizer"], "--what tokenizer: holds no weights"),
        (".", ["--what", "hf"], "--what hf: . is no repository"),
    ],
)
def test_what_cannot_be_meant(
    several: FakeHub, run: Run, output: Path, name: str, options: list[str], words: str
) -> None:
    refused = run("convert", name, output, *options)
    check_refusal(refused, 2)
    assert words in refused.err
    assert file_bytes(several) == 0
    advice = refused.complaint[-1]
    if "any of" in words:
        assert advice.startswith("Name one, such as --what ")
        assert run("convert", name, output, "--what", advice.rstrip(".").split()[-1], "--dry-run").status == 0
