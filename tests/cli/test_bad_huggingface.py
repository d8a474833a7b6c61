"""Damaged, incomplete and foreign Hugging Face folders: refused by inspect and verify alike."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Result, change_json
from tests.cli.conftest import check_refusal

QUERY = "model.layers.0.self_attn.q_proj.weight"
FIRST = "model-00001-of-00004.safetensors"


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    return shutil.copytree(converted, tmp_path / "huggingface")


@pytest.fixture
def refuses(run: Callable[..., Result]) -> Callable[[Path], str]:
    def refused(folder: Path) -> str:
        texts = set()
        for command in ("inspect", "verify"):
            result = run(command, folder)
            check_refusal(result, 3)
            texts.add("\n".join(result.complaint))
        (text,) = texts
        return text

    return refused


def change_header(path: Path, change: Callable[[str], str]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + length].decode()).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def holding(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]


def test_the_folder_is_sound_before_it_is_damaged(folder: Path, run: Callable[..., Result]) -> None:
    assert run("verify", folder).status == 0


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (100_000, ", the file at 100,000"),
        (100, "bytes in 100 bytes"),
        (4, "bytes in 4 bytes"),
        (0, "empty file"),
    ],
)
def test_truncated_weights(folder: Path, refuses: Callable[[Path], str], size: int, words: str) -> None:
    os.truncate(folder / FIRST, size)
    text = refuses(folder)
    assert f"{folder / FIRST}: " in text
    assert words in text


@pytest.mark.parametrize(
    ("content", "words"), [(b"<!doctype html>", "an HTML page"), (b"version https://git-lfs", "a Git LFS pointer")]
)
def test_what_is_no_weight_file(folder: Path, refuses: Callable[[Path], str], content: bytes, words: str) -> None:
    (folder / FIRST).write_bytes(content)
    assert f"{folder / FIRST}: this is {words}, not weights" in refuses(folder)


def test_a_missing_file_of_the_index(folder: Path, refuses: Callable[[Path], str]) -> None:
    (folder / "model-00002-of-00004.safetensors").unlink()
    assert "1 weight file of 4 missing\n  model-00002-of-00004.safetensors\n" in refuses(folder)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}'])
def test_an_index_without_places(folder: Path, refuses: Callable[[Path], str], content: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(content)
    assert f"{index}: has no weight_map from tensors to files" in refuses(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: entry | {"shape": [64, 576]}, f"shape    {QUERY}: the file has (64, 576), config.json says"),
        (lambda entry: entry | {"dtype": "I16"}, f"dtype    {QUERY} is int16, wanted float32 or bfloat16 or float16"),
        (lambda entry: entry | {"dtype": "X9"}, f"{QUERY}: unknown dtype 'X9'"),
        (lambda entry: entry | {"shape": []}, f"{QUERY}: BF16 [] does not fill bytes"),
        (lambda entry: entry | {"data_offsets": [0, 73728]}, "but the bytes before it end at"),
        (lambda entry: 3, QUERY),
    ],
    ids=["shape", "dtype", "unknown dtype", "empty shape", "overlap", "no entry"],
)
def test_a_header_that_does_not_fit(
    folder: Path, refuses: Callable[[Path], str], change: Callable[[Any], Any], words: str
) -> None:
    def changed(header: str) -> str:
        entries = json.loads(header)
        entries[QUERY] = change(entries[QUERY])
        return json.dumps(entries)

    change_header(holding(folder, QUERY), changed)
    assert words in refuses(folder)


def test_a_renamed_tensor_is_missing_and_unknown(folder: Path, refuses: Callable[[Path], str]) -> None:
    change_header(holding(folder, QUERY), lambda header: header.replace(QUERY, "model.other"))
    text = refuses(folder)
    assert f"missing  {QUERY}" in text
    assert "unknown  model.other" in text


def test_a_head_that_is_neither_stored_nor_tied_is_missing(folder: Path, refuses: Callable[[Path], str]) -> None:
    """Transformers would fill it with random numbers."""
    ignored = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_header(holding(folder, "lm_head.weight"), lambda header: header.replace("lm_head.weight", ignored))
    assert "(1 problem)\n  missing  lm_head.weight\n" in refuses(folder)


def test_a_name_twice_in_a_header(folder: Path, refuses: Callable[[Path], str]) -> None:
    again = f',"{QUERY}":{{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}}}'
    change_header(holding(folder, QUERY), lambda header: header.rstrip()[:-1] + again)
    assert f"names given twice: {QUERY}" in refuses(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral', wanted 'llama'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights (gptq) are not supported"),
        ({"quantization_config": True}, "quantised weights (True) are not supported"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', wanted 'silu'"),
        ({"attention_bias": True}, "attention_bias is True, wanted False"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true, but lm_head.weight is not the embedding"),
        ({"hidden_size": ..., "vocab_size": ...}, "lacks hidden_size, vocab_size"),
        ({"hidden_size": "x"}, "hidden_size is 'x', wanted a whole number"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers 1000000000000 is more than any model has"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1"),
        ({"num_key_value_heads": 12}, "the file has (64, 192), config.json says (192, 192)"),
        ({"rms_norm_eps": True}, "rms_norm_eps is True, wanted a number above zero"),
        ({"max_position_embeddings": "x"}, "max_position_embeddings is 'x', wanted a whole number"),
        ({"rope_theta": "x", "rope_parameters": ...}, "rope_theta is 'x', wanted a number above zero"),
        ({"rope_scaling": [1]}, "rope_scaling is no object"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "RoPE scaling of type 'yarn' is not supported"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "the RoPE scaling lacks low_freq_factor, high"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit(
    folder: Path, refuses: Callable[[Path], str], values: dict[str, Any], words: str
) -> None:
    change_json(folder / "config.json", **values)
    text = refuses(folder)
    assert words in text
    assert str(folder) in text


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_an_unreadable_config(folder: Path, refuses: Callable[[Path], str], content: str) -> None:
    (folder / "config.json").write_text(content)
    assert f"{folder / 'config.json'}: unreadable: " in refuses(folder)


def test_a_folder_without_config_is_no_checkpoint(folder: Path, refuses: Callable[[Path], str]) -> None:
    (folder / "config.json").unlink()
    assert f"{folder}: no checkpoint here" in refuses(folder)
