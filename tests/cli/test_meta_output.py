"""`convert --to meta`: what the command says and refuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cli.commands import Result, change_shards, flip_byte, leftovers
from tests.cli.conftest import check_refusal

Source = Callable[..., Path]
Run = Callable[..., Result]


def test_a_folder_of_metas(converted: Path, run: Run, output: Path) -> None:
    result = run("convert", converted, output, "--to", "meta", "--shards", "2", "--verify")
    assert result.status == 0
    assert result.out.startswith(f"{output}: 2.6 MB in 2 weight files")
    assert result.out.rstrip().endswith("the same model")
    assert {path.name for path in output.iterdir()} == {
        "consolidated.00.pth",
        "consolidated.01.pth",
        "params.json",
        "tokenizer.model",
        "checklist.chk",
        "conversion.json",
    }
    subprocess.run(["md5sum", "--check", "--strict", "--quiet", "checklist.chk"], cwd=output, check=True)


def test_a_dry_run_names_every_file(converted: Path, run: Run, output: Path) -> None:
    result = run("convert", converted, output, "--to", "meta", "--shards", "4", "--dry-run", "--json")
    plan = result.json["plan"]
    assert [file["name"] for file in plan["files"]] == [f"consolidated.0{rank}.pth" for rank in range(4)]
    assert {len(file["tensors"]) for file in plan["files"]} == {21}
    assert plan["side_files"] == ["params.json", "tokenizer.model", "checklist.chk"]
    assert leftovers(output) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "meta", "--shards", "5"], "--shards 5: 12 heads cannot be dealt out evenly"),
        (["--to", "meta", "--shards", "0"], "--shards 0: there can be 1 to 99"),
        (["--to", "meta", "--shards", "100"], "--shards 100: there can be 1 to 99"),
        (["--to", "meta", "--shard-size", "1MB"], "--shard-size"),
        (["--to", "hf", "--shards", "2"], "--shards"),
    ],
)
def test_numbers_of_shards_that_cannot_be(
    converted: Path, run: Run, output: Path, options: list[str], words: str
) -> None:
    result = run("convert", converted, output, *options)
    check_refusal(result, 2)
    assert words in result.err
    assert leftovers(output) == []


def test_a_flipped_byte_leaves_nothing(source: Source, refuses: Callable[..., str]) -> None:
    folder = source("3-2shards")
    flip_byte(folder / "consolidated.01.pth", "data/5")
    assert "record consolidated.01/data/5" in refuses(folder, "--to", "meta", "--shards", "4")


def test_fp8_without_its_scales(source: Source, refuses: Callable[..., str]) -> None:
    folder, name = source(), "layers.1.feed_forward.w1.weight"
    change_shards(folder, lambda path, state: {**state, name: state[name].to(torch.float8_e4m3fn)})
    text = refuses(folder)
    assert "FP8 weights, and no scales for them (4 files missing)" in text
    assert "fp8_scales_3.pt" in text


def test_the_certificate_names_the_version_that_no_file_does(source: Source, run: Run, output: Path) -> None:
    folder = source("3.1")
    assert run("convert", folder, output, "--to", "meta", "--llama-version", "3.2").status == 0
    assert json.loads((output / "conversion.json").read_text())["source"]["llama_version"] == "3.2"
    result = run("convert", output, output.with_name("hf"))
    assert result.status == 0
    assert json.loads((output.with_name("hf") / "config.json").read_text())["rope_scaling"]["factor"] == 32
