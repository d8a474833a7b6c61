"""Fingerprints and differences: the same model has one fingerprint in every lossless format; a changed one has not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_convert.convert import Request, convert_checkpoint, open_checkpoint, plan_conversion
from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.formats import FORMATS
from llama_convert.verify.differences import differences
from llama_convert.verify.fingerprint import fingerprint
from tests.checkpoints import random_model, write_meta

QUERY = "model.layers.1.self_attn.q_proj.weight"


def converted(source: Path, folder: Path, to: str, version: str, **request: object) -> Path:
    plan = plan_conversion(source, to=to, llama_version=version, request=Request(**request))  # type: ignore[arg-type]
    return convert_checkpoint(plan, folder).folder


@pytest.mark.parametrize(("version", "dtype", "shards"), [("2", torch.float32, 2), ("3.2", None, 1), ("3.1", None, 4)])
def test_one_model_one_fingerprint(version: str, dtype: torch.dtype | None, shards: int, tmp_path: Path) -> None:
    model = random_model(version, dtype=dtype)
    source = write_meta(model, tmp_path / "source", shards=shards, tokenizer=model.tokenizer)
    wanted = fingerprint(open_checkpoint(source, version))
    for form in FORMATS:
        if form.name != "llama2c" or version == "2":
            folder = converted(source, tmp_path / form.name, form.name, version)
            assert fingerprint(open_checkpoint(folder, version)) == wanted, form.name


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A model in Meta's format and in Hugging Face's."""
    model = random_model("3")
    source = write_meta(model, tmp_path / "meta", shards=2, tokenizer=model.tokenizer)
    return source, converted(source, tmp_path / "hf", "hf", "3")


def change_bit(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name].view(torch.int16)[-1, -1] ^= 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_one_bit_changes_one_digest_and_the_models(pair: tuple[Path, Path]) -> None:
    source, folder = pair
    before = fingerprint(open_checkpoint(source))
    change_bit(folder, QUERY)
    after = fingerprint(open_checkpoint(folder))
    changed = [weight for weight in before.weights if before.weights[weight] != after.weights[weight]]
    assert changed == [Weight(Role.QUERY, 1)]
    assert before.model != after.model


def test_another_type_is_another_fingerprint(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """And quantised weights count with their values: those that a float32 file of them holds."""
    source, folder = pair
    wide = converted(source, tmp_path / "wide", "hf", "3", dtype=DType.FLOAT32)
    assert fingerprint(open_checkpoint(wide)).model != fingerprint(open_checkpoint(folder)).model
    coded = converted(source, tmp_path / "coded", "gguf", "3", quantize=DType.Q8_0)
    values = converted(coded, tmp_path / "values", "hf", "3", dtype=DType.FLOAT32)
    matrices = [Weight(Role.UP, 0), Weight(Role.TOKENS)]
    of_codes, of_values = (fingerprint(open_checkpoint(path)).weights for path in (coded, values))
    assert [of_codes[weight] for weight in matrices] == [of_values[weight] for weight in matrices]


def test_no_differences_across_formats(pair: tuple[Path, Path]) -> None:
    assert differences(*pair).none


def test_every_difference_is_listed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, folder = pair
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    change_bit(other, QUERY)
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"rms_norm_eps": 1e-05', '"rms_norm_eps": 1e-06'))
    path = other / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"<|reserved_special_token_7|>", b"<|mine|>"))
    found = differences(source, other)
    assert found.config == ("norm_eps: 1e-05 against 1e-06",)
    assert [(result.weight, result.difference.count) for result in found.weights if result.difference] == [
        (Weight(Role.QUERY, 1), 1)
    ]
    assert any("<|mine|>" in line for line in found.tokenizer)
