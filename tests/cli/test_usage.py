"""Wrong options, wrong destinations, too small a disk: refused before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from llama_convert.convert.tokenizers.special_tokens import special_tokens
from tests.cli.commands import Result, leftovers
from tests.cli.conftest import check_refusal

Refuses = Callable[..., str]
Source = Callable[..., Path]
Run = Callable[..., Result]

NAMES = special_tokens("3")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dtype", "int8"], "--dtype int8: not a type for weights"),
        (["--dtype", "float64"], "--dtype float64: not a type for weights"),
        (["--dtype"], "'--dtype' requires an argument"),
        (["--shard-size", "0"], "--shard-size 0: not a size"),
        (["--shard-size", "5XB"], "--shard-size 5XB: not a size"),
        (["--shard-size", "-1"], "--shard-size -1: not a size"),
        (["--shard_size", "9" * 400], "not a size"),
        (["--to", "onnx"], "onnx: no such format"),
        (["--to", "meta", "--shards", "5"], "--shards 5: 12 heads cannot be dealt out evenly"),
        (["--frobnicate"], "No such option: --frobnicate"),
        (["extra"], "unexpected extra argument"),
        (["--special-tokens", "a", "b"], "2 names for 256 ids"),
        (["--special-tokens", *NAMES[:-1]], "255 names for 256 ids"),
        (["--special-tokens", *NAMES[:20], NAMES[21], *NAMES[21:]], f"name 21, '{NAMES[21]}', is also name 20"),
        (["--special-tokens", NAMES[1], NAMES[0], *NAMES[2:]], f"name 0 must be '{NAMES[0]}', not '{NAMES[1]}'"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_wrong_options(source: Source, refuses: Refuses, options: list[str], words: str) -> None:
    assert words in refuses(source("3-2shards"), *options, status=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert"], "Missing argument 'SRC'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["verify", ".", "--level", "smell"], "No level is called 'smell'"),
        (["inspect", "nowhere"], "nowhere: no such folder"),
        (["--model_size", "7B"], "Missing option '--input-dir'"),
        (["--llama_version", "3", "convert", "a", "b"], "Missing option '--input-dir'"),
    ],
    ids=str,
)
def test_wrong_commands(run: Run, arguments: list[str], words: str) -> None:
    result = run(*arguments)
    check_refusal(result, 2)
    assert words in result.err


def test_no_arguments_show_the_help(run: Run) -> None:
    result = run()
    assert result.status == 2
    assert "inspect" in result.out


def test_wrong_usage_with_json_is_one_object(run: Run) -> None:
    result = run("convert", "--jsn", "--json")
    assert result.status == 2
    assert result.json["ok"] is False
    assert result.json["error"].startswith("No such option: --jsn")
    assert result.json["advice"] == "See llama-convert convert --help."


def test_a_folder_above_the_checkpoint_leads_to_it(source: Source, run: Run) -> None:
    folder = source("3-2shards")
    result = run("inspect", folder.parent)
    check_refusal(result, 3)
    assert result.complaint[-1] == f"Did you mean {folder}?"


def test_an_existing_folder_is_refused(source: Source, run: Run, output: Path) -> None:
    output.mkdir()
    (output / "config.json").write_text("mine")
    result = run("convert", source("3-2shards"), output)
    check_refusal(result, 2)
    assert f"{output}: exists and is not empty" in result.err
    assert "--overwrite" in result.complaint[-1]
    assert (output / "config.json").read_text() == "mine"
    assert leftovers(output) == ["output"]


def test_an_empty_folder_is_filled(source: Source, run: Run, output: Path) -> None:
    output.mkdir()
    assert run("convert", source("3-2shards"), output).status == 0
    assert (output / "model.safetensors").exists()


def test_overwrite_replaces_a_model_folder_at_the_end(source: Source, run: Run, output: Path) -> None:
    folder = source("3-2shards")
    assert run("convert", folder, output, "--shard-size", "1MB").status == 0
    (output / "stray.txt").write_text("of the old model")
    assert run("convert", folder, output, "--overwrite").status == 0
    assert leftovers(output) == ["output"]
    assert [path.name for path in output.glob("model*")] == ["model.safetensors"]
    assert not (output / "stray.txt").exists()


def test_overwrite_leaves_the_old_model_where_the_new_one_fails(source: Source, run: Run, output: Path) -> None:
    """The flaw shows only while bytes move: by then the old folder must still be there."""
    folder = source("3-2shards", checklist=True)
    assert run("convert", folder, output).status == 0
    (output / "stray.txt").write_text("of the old model")
    with (folder / "consolidated.00.pth").open("r+b") as file:
        file.seek(200_000)
        file.write(b"damage")
    assert run("convert", folder, output, "--overwrite").status == 3
    assert (output / "stray.txt").exists()
    assert leftovers(output) == ["output"]


def test_overwrite_replaces_only_model_folders(source: Source, run: Run, output: Path) -> None:
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    result = run("convert", source("3-2shards"), output, "--overwrite")
    check_refusal(result, 2)
    assert "holds no model (thesis.tex" in result.err
    assert (output / "thesis.tex").exists()


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.parametrize("target", [".", "..", "../source", "link"])
def test_the_source_is_never_the_output(source: Source, run: Run, target: str, overwrite: list[str]) -> None:
    folder = source("3-2shards")
    (folder / "link").symlink_to(folder)
    before = sorted(path.name for path in folder.iterdir())
    result = run("convert", folder, folder / target, *overwrite)
    check_refusal(result, 2)
    assert "this is the source, or holds it" in result.err
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("target", ["output", "output/inner"])
def test_an_output_that_is_a_file(source: Source, run: Run, output: Path, target: str) -> None:
    output.write_text("mine")
    result = run("convert", source("3-2shards"), output.parent / target)
    check_refusal(result, 2)
    assert f"{output}: exists and is no folder" in result.err
    assert output.read_text() == "mine"


def test_a_disk_that_is_too_small(source: Source, refuses: Refuses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=10**9, used=0, free=10**6))
    text = refuses(source("3-2shards"), status=5)
    assert "0.1 GB are needed, 0.0 GB are free" in text
    assert "Free some space" in text


def test_a_dry_run_promises_nothing_about_the_disk(
    source: Source, run: Run, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=10**9, used=0, free=0))
    assert run("convert", source("3-2shards"), output, "--dry-run").status == 0
