"""The command line of the old conversion script, option by option."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_convert.convert.tokenizers.special_tokens import special_tokens
from tests.cli.commands import Result
from tests.cli.conftest import check_refusal

Source = Callable[..., Path]
Run = Callable[..., Result]


def config(output: Path, name: str = "config.json") -> dict[str, object]:
    return json.loads((output / name).read_text())


@pytest.mark.parametrize("spelling", ["--input_dir {0} --output_dir {1}", "--output-dir={1} --input-dir={0}"])
def test_both_spellings(source: Source, run: Run, output: Path, spelling: str) -> None:
    result = run(*spelling.format(source("3-2shards"), output).split())
    assert result.status == 0, result.err
    assert f"{output}: 2.6 MB in 1 weight file, 37 checksums held" in result.out
    assert config(output)["model_type"] == "llama"


def test_every_option_at_once(source: Source, run: Run, output: Path) -> None:
    names = [*special_tokens("3")[:-1], "<|my_token|>"]
    options = "--llama_version 3 --num_shards 2 --safe_serialization True --instruct True --push_to_hub False"
    result = run(
        *("--input_dir", source("3-2shards"), "--output_dir", output, *options.split()),
        *("--special_tokens", *names, "--quiet"),
    )
    assert result.status == 0, result.err
    assert result.err == ""
    assert config(output, "tokenizer.json")["added_tokens"][-1]["content"] == "<|my_token|>"
    assert "chat_template" in config(output, "tokenizer_config.json")


@pytest.mark.parametrize(
    ("written", "instruct"),
    [
        ("--instruct", True),
        ("--instruct True", True),
        ("--instruct false", False),
        ("--no-instruct", False),
        ("", False),
    ],
)
def test_switches_may_be_followed_by_a_value(
    source: Source, run: Run, output: Path, written: str, instruct: bool
) -> None:
    assert run("--input_dir", source("3-2shards"), *written.split(), "--output_dir", output).status == 0
    assert ("chat_template" in config(output, "tokenizer_config.json")) is instruct


def test_tokenizer_only(source: Source, run: Run, output: Path) -> None:
    folder = source("3-2shards")
    assert run("--input_dir", folder, "--output_dir", output, "--model_size", "tokenizer_only").status == 0
    assert (output / "tokenizer.json").exists()
    assert not list(output.rglob("*.safetensors"))
    assert not (output / "config.json").exists()


def test_the_subfolder_named_by_the_size(source: Source, run: Run, output: Path, tmp_path: Path) -> None:
    """Llama 1 lay in LLaMA/7B, with its tokenizer one folder above: the size is held against what is there."""
    (tmp_path / "LLaMA").mkdir()
    folder = source("1-4shards").rename(tmp_path / "LLaMA" / "7B")
    (folder / "tokenizer.model").rename(tmp_path / "LLaMA" / "tokenizer.model")
    result = run("--input_dir", tmp_path / "LLaMA", "--output_dir", output, "--model_size", "7B")
    check_refusal(result, 3)
    assert f"{folder}: the options contradict the files" in result.err
    assert not output.exists()
    assert run("--input_dir", folder, "--output_dir", output).status == 0
    assert config(output)["rms_norm_eps"] == 1e-6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--model_size 8B", "--model_size 8B: the files have 0.00 B parameters"),
        ("--model_size 9X", "--model_size 9X: there is no such size"),
        ("--num_shards 4", "--num_shards 4: the folder has 2"),
        ("--llama_version 2", "--llama-version 2 contradicts the files"),
    ],
)
def test_options_are_held_against_the_files(source: Source, run: Run, output: Path, options: str, words: str) -> None:
    result = run("--input_dir", source("3-2shards"), "--output_dir", output, *options.split())
    check_refusal(result, 3)
    assert words in result.err
    assert not output.exists()


def test_all_contradictions_are_told_at_once(source: Source, run: Run, output: Path) -> None:
    options = "--num_shards 8 --model_size 70B"
    result = run("--input_dir", source("3-2shards"), "--output_dir", output, *options.split())
    assert "--num_shards 8: " in result.err
    assert "--model_size 70B: " in result.err


def test_a_number_of_shards_that_is_no_number(source: Source, run: Run, output: Path) -> None:
    result = run("--input_dir", source("3-2shards"), "--output_dir", output, "--num_shards", "two")
    check_refusal(result, 2)
    assert "'--num-shards'" in result.err


def test_only_safetensors_are_written(source: Source, run: Run, output: Path) -> None:
    result = run("--input_dir", source("3-2shards"), "--output_dir", output, "--safe_serialization", "False")
    check_refusal(result, 2)
    assert "only safetensors are written" in result.err
    assert not output.exists()
