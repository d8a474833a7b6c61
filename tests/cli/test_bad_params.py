"""params.json, tokenizers and asserted versions that contradict the weights, or are damaged themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import small_sentencepiece, small_tiktoken
from tests.cli.commands import Result, change_json

Refuses = Callable[..., str]
Source = Callable[..., Path]
Run = Callable[..., Result]


def test_missing_params(source: Source, refuses: Refuses) -> None:
    folder = source("3-2shards")
    (folder / "params.json").unlink()
    text = refuses(folder)
    assert f"{folder / 'params.json'}: missing" in text
    assert text.endswith("Download params.json into the same folder.")


@pytest.mark.parametrize("content", ["{not json", "", "[1, 2]", '"text"', '{"model": [1]}', "\x00", "[" * 100_000])
def test_unparsable_params(source: Source, refuses: Refuses, content: str) -> None:
    folder = source("3-2shards")
    (folder / "params.json").write_text(content)
    text = refuses(folder)
    assert f"{folder / 'params.json'}: unreadable: " in text
    assert "attribute" not in text, "Python's own words"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_heads": ...}, "lacks n_heads"),
        ({"n_heads": None, "dim": ...}, "lacks dim, n_heads"),
        ({"n_kv_heads": 2}, "n_kv_heads is 2, but the key rows hold 4 different heads"),
        ({"n_kv_heads": 12}, "layers.1.attention.wv.weight: the files have (64, 192), params.json says (192, 192)"),
        ({"n_kv_heads": 5}, "n_heads 12 is no multiple of n_kv_heads 5"),
        ({"n_kv_heads": 0}, "n_heads 12 is no multiple of n_kv_heads 0"),
        ({"n_kv_heads": "4"}, "n_kv_heads is '4', wanted a whole number"),
        ({"n_heads": 7}, "dim 192 does not divide into 7 heads of even size"),
        ({"n_heads": 0}, "dim, n_layers and n_heads must be at least 1"),
        ({"dim": -192}, "dim, n_layers and n_heads must be at least 1"),
        ({"dim": 192.5}, "dim is 192.5, wanted a whole number"),
        ({"dim": float("inf")}, "dim is inf, wanted a whole number"),
        ({"dim": 12 * 10**9}, "tensors do not fit|shards found"),
        ({"n_layers": 10**12}, "n_layers 1000000000000 is more than any model has"),
        ({"n_layers": True}, "n_layers is True, wanted a whole number"),
        ({"n_layers": 3}, "missing  layers.2.attention.wk.weight in every shard"),
        ({"vocab_size": 1000}, "output.weight: the files have (768, 192), params.json says (1000, 192)"),
        ({"vocab_size": "many"}, "vocab_size is 'many', wanted a whole number"),
        ({"multiple_of": 7}, "layers.0.feed_forward.w2.weight: the files have (192, 704), params.json says (192, 665)"),
        ({"multiple_of": "a"}, "multiple_of is 'a', wanted a whole number"),
        ({"ffn_dim_multiplier": "x"}, "ffn_dim_multiplier is 'x', wanted a number above zero"),
        ({"norm_eps": float("nan")}, "norm_eps is nan, wanted a number above zero"),
        ({"norm_eps": "1e-5"}, "norm_eps is '1e-5', wanted a number above zero"),
        ({"rope_theta": "x", "dim": "y"}, "dim is 'y', wanted a whole number\n  rope_theta is 'x', wanted"),
        ({"rope_theta": -1}, "rope_theta is -1, wanted a number above zero"),
    ],
    ids=str,
)
def test_sizes_that_are_impossible_or_contradict_the_weights(
    source: Source, refuses: Refuses, values: dict[str, Any], words: str
) -> None:
    folder = source()
    change_json(folder / "params.json", **values)
    text = refuses(folder)
    assert any(part in text for part in words.split("|")), text
    assert str(folder) in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"quantization_args": {"scheme": "int4", "group_size": 256}}, "a quantised checkpoint"),
        ({"lora_args": {"rank": 16}}, "LoRA adapters"),
        ({"vision_chunk_size": 448, "vision_max_num_chunks": 4}, "a Llama 3.2 Vision model"),
        ({"vision_args": {"image_size": [336, 336]}}, "a Llama 4 model"),
        ({"moe_args": {"num_experts": 16}}, "a Llama 4 model"),
    ],
)
def test_models_that_are_not_supported_are_refused_by_name(
    source: Source, refuses: Refuses, values: dict[str, Any], words: str
) -> None:
    folder = source("3-2shards")
    change_json(folder / "params.json", **values)
    text = refuses(folder)
    assert "params.json: this is " in text
    assert words in text
    assert "Supported are the text models Llama 1 to 3.3" in text


@pytest.mark.parametrize("option", ["--llama-version", "--llama_version"])
@pytest.mark.parametrize(
    ("name", "asserted", "shown"),
    [("3-2shards", "3.1", "Llama 3"), ("3-2shards", "2", "Llama 3"), ("2-2shards", "llama3", "Llama 2")],
)
def test_an_asserted_version_that_contradicts_the_files(
    source: Source, refuses: Refuses, option: str, name: str, asserted: str, shown: str
) -> None:
    text = refuses(source(name, tokenizer=None), option, asserted)
    assert f"--llama-version {asserted} contradicts the files, which show {shown}" in text
    assert "the files say: " in text


def test_a_version_nobody_knows_is_wrong_usage(source: Source, refuses: Refuses) -> None:
    text = refuses(source("3-2shards"), "--llama-version", "7", status=2)
    assert "--llama-version 7: there is no such version" in text
    assert "guard-3" in text


def test_no_tokenizer(source: Source, refuses: Refuses) -> None:
    folder = source("3-2shards")
    (folder / "tokenizer.model").unlink()
    assert f"{folder}: no tokenizer here or one folder above" in refuses(folder)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("3-2shards", lambda path: small_tiktoken(path, 400), "it has 656 tokens, the embedding has 768 rows"),
        ("3-2shards", lambda path: small_sentencepiece(path, 512), "it has 512 tokens, the embedding has 768 rows"),
        ("3.1-4shards", lambda path: small_sentencepiece(path, 512), "a SentencePiece model, as up to Llama 2, but"),
        ("2-2shards", lambda path: small_tiktoken(path, 300), "it has 556 tokens, the embedding has 512 rows"),
        ("2-2shards", lambda path: small_sentencepiece(path, 480), "it has 480 tokens, the embedding has 512 rows"),
    ],
    ids=["size", "SentencePiece for 3", "SentencePiece for 3.1", "tiktoken for 2", "size of 2"],
)
def test_the_wrong_tokenizer(
    source: Source, refuses: Refuses, name: str, write: Callable[[Path], Path], words: str
) -> None:
    folder = source(name)
    write(folder / "tokenizer.model")
    text = refuses(folder)
    assert f"{folder / 'tokenizer.model'}: the wrong tokenizer: " in text
    assert words in text
    assert text.endswith("Copy the tokenizer.model that came with these weights into their folder.")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-9], "line 512: not a token and a rank"),
        (lambda data: data.replace(b" 300\n", b" 301\n"), "rank 301 is also on line 301"),
        (lambda data: b"", "an empty file"),
        (lambda data: b"<html>sign in</html>", "an HTML page"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
    ids=["cut", "rank twice", "empty", "html", "lfs"],
)
def test_a_damaged_tokenizer(source: Source, refuses: Refuses, damage: Callable[[bytes], bytes], words: str) -> None:
    folder = source("3-2shards")
    path = folder / "tokenizer.model"
    path.write_bytes(damage(path.read_bytes()))
    text = refuses(folder)
    assert str(path) in text
    assert words in text


def test_a_refusal_with_json_is_one_object_on_stdout(source: Source, run: Run, output: Path) -> None:
    folder = source("3-2shards")
    change_json(folder / "params.json", n_kv_heads=5)
    result = run("convert", folder, output, "--json")
    assert result.status == 3
    assert result.json == {
        "ok": False,
        "status": 3,
        "error": f"{folder / 'params.json'}: impossible sizes",
        "problems": ["n_heads 12 is no multiple of n_kv_heads 5"],
        "advice": "Download params.json again.",
    }
