"""`pad` and `resize` on the command line: what is refused, in one line, with nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import Result, change_json, leftovers
from tests.cli.conftest import check_refusal
from tests.cli.folders import contents

Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("pad", "hf-2", "--token", "<unk>"), "<unk> is also what unknown text becomes: its loss would be masked too"),
        (("pad", "hf-2", "--token", "</s>"), "also ends texts"),
        (("pad", "hf-3", "--token", "<|eot_id|>"), "exists already (id 521)"),
        (("pad", "hf-3", "--token", "a"), "exists already (id 64)"),
        (("pad", "hf-3", "--token", ""), "is no name for a token"),
        (("pad", "hf-3", "--multiple-of", 0), "--multiple-of 0: not a size"),
        (("resize", "hf-3", "--add-tokens", "<|eot_id|>"), "'<|eot_id|>' exists already, with id 521"),
        (("resize", "hf-2", "--add-tokens", "<s>"), "'<s>' exists already, with id 1"),
        (("resize", "hf-3", "--add-tokens", "<|a|>", "--add-tokens", "<|a|>"), "'<|a|>' is given twice"),
        (("resize", "hf-3", "--vocab-size", 766), "2 tokens would be lost: '<|reserved_special_token_249|>'"),
        (("resize", "hf-3", "--vocab-size", 768, "--add-tokens", "<|a|>"), "too few rows for 768 tokens and 1 new"),
        (("resize", "hf-3", "--vocab-size", 800, "--multiple-of", 64), "contradict each other"),
        (("resize", "hf-3"), "nothing to do"),
        (("resize", "hf-3", "--vocab-size", 768), "nothing to do"),
        (("resize", "hf-3", "--vocab-size", 800, "--init", "copy:<|nobody|>"), "the tokenizer has no such token"),
        (("resize", "hf-3", "--vocab-size", 800, "--init", "copy"), "there is no such"),
        (("resize", "hf-3", "--vocab-size", 800, "--init", "xavier"), "there is no such"),
        (("resize", "hf-3", "--add-tokens", "Ġ"), "'Ġ' exists already, with id 220"),
    ],
)
def test_it_is_refused_in_one_line(
    command: tuple[object, ...], said: str, folders: Path, run: Run, output: Path
) -> None:
    name, source, *options = command
    result = run(name, folders / str(source), output, *options)
    check_refusal(result, 2)
    assert said in "\n".join(result.complaint)
    assert leftovers(output) == []


def test_an_id_that_the_configuration_uses_is_taken(hf: Callable[[str], Path], run: Run, output: Path) -> None:
    folder = hf("3")
    assert run("resize", folder, "--in-place", "--vocab-size", 800).status == 0
    change_json(folder / "config.json", pad_token_id=768)
    result = run("resize", folder, output, "--add-tokens", "<|a|>")
    check_refusal(result, 2)
    assert "id 768 is taken: it pads, and no token has it" in result.err


def test_a_quantised_source_needs_a_type(folders: Path, run: Run, output: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    assert run("convert", folders / "hf-3", small, "--to", "gguf", "--quantize", "q8_0").status == 0
    refused = run("pad", small, output, "--token", "<pad>")
    check_refusal(refused, 2)
    assert "a quantised source needs --dtype" in refused.err
    assert run("pad", small, output).status == 0  # no row is added: nothing would be rounded
    done = run("pad", small, tmp_path / "wide", "--token", "<pad>", "--dtype", "bfloat16")
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("pad", "hf-3"), "DST is missing"),
        (("pad", "hf-3", "DST", "--in-place"), "which is to be written?"),
        (("pad", "hf-3", "--in-place", "--dtype", "float32"), "change every file"),
        (("pad", "hf-3", "--in-place", "--to", "gguf"), "is for Hugging Face folders that stay such"),
        (("pad", "meta-3", "--in-place"), "is for Hugging Face folders that stay such"),
    ],
)
def test_in_place_is_for_folders_of_hugging_face(
    command: tuple[str, ...], said: str, folders: Path, run: Run, output: Path
) -> None:
    before = contents(folders)
    paths = {"hf-3": folders / "hf-3", "meta-3": folders / "meta-3", "DST": output}
    result = run(*(paths.get(word, word) for word in command))
    check_refusal(result, 2)
    assert said in result.err
    assert contents(folders) == before
