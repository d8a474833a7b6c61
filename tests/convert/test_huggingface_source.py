"""Hugging Face folders as other programs leave them: legacy weights, the configs of transformers 4 and 5."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llama_convert.convert import CheckpointError, open_checkpoint
from tests.checkpoints import CASES, Case
from tests.convert.support import converted, equal

SCALED = CASES[4]
TIED = next(case for case in CASES if case.version == "3.2" and case.tied is None)
FREQUENCIES = "model.layers.0.self_attn.rotary_emb.inv_freq"


@pytest.fixture(params=[SCALED, TIED], ids=str)
def folder(request: pytest.FixtureRequest, meta_checkpoint, tmp_path: Path) -> Path:
    case: Case = request.param
    return converted(meta_checkpoint(case), tmp_path / "hf", "hf", case.version)


def legacy(folder: Path, target: Path, files: int, **more: torch.Tensor) -> Path:
    """The folder with its weights as torch.save wrote them before safetensors: one file, or several and an index."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = load_file(folder / "model.safetensors") | more
    names = ["pytorch_model.bin"]
    if files > 1:
        names = [f"pytorch_model-{number + 1:05}-of-{files:05}.bin" for number in range(files)]
        places = {name: names[place % files] for place, name in enumerate(weights)}
        (target / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for number, name in enumerate(names):
        torch.save({key: weights[key] for key in list(weights)[number::files]}, target / name)
    return target


@pytest.mark.parametrize("files", [1, 3])
def test_legacy_weights_are_the_same_weights(files: int, folder: Path, tmp_path: Path) -> None:
    old = legacy(folder, tmp_path / "bin", files, **{FREQUENCIES: torch.ones(8)})
    found = load_file(converted(old, tmp_path / "out", "hf") / "model.safetensors")
    assert equal(found, load_file(folder / "model.safetensors"))
    changed = legacy(folder, tmp_path / "changed", files, **{"model.norm.weight": torch.ones(192).bfloat16()})
    found = load_file(converted(changed, tmp_path / "other", "hf") / "model.safetensors")
    assert not equal(found, load_file(folder / "model.safetensors"))  # negative control


def test_a_missing_legacy_file_is_named(folder: Path, tmp_path: Path) -> None:
    old = legacy(folder, tmp_path / "bin", 3)
    (old / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(old)
    assert caught.value.problems == ("pytorch_model-00002-of-00003.bin",)


def test_safetensors_win_over_legacy_weights(folder: Path, tmp_path: Path) -> None:
    both = legacy(folder, tmp_path / "bin", 1)
    shutil.copy(folder / "model.safetensors", both)
    assert [file.path.name for file in open_checkpoint(both).files] == ["model.safetensors"]


def old_keys(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("rope_parameters", "dtype")}


def new_keys(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("rope_theta", "rope_scaling", "torch_dtype")}


@pytest.mark.parametrize("only", [old_keys, new_keys])
def test_either_dialect_says_the_same(only: Any, folder: Path) -> None:
    before = open_checkpoint(folder).config
    path = folder / "config.json"
    path.write_text(json.dumps(only(json.loads(path.read_text()))))
    assert open_checkpoint(folder).config == before
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_parameters": {"rope_theta": 777.0}}))
    assert open_checkpoint(folder).config.rope_theta == 777.0  # negative control: the newer dialect wins


def test_what_transformers_saves_is_read(folder: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    model.save_pretrained(tmp_path / "saved", max_shard_size="500KB")
    AutoTokenizer.from_pretrained(folder, local_files_only=True).save_pretrained(tmp_path / "saved")
    saved, before = open_checkpoint(tmp_path / "saved"), open_checkpoint(folder)
    assert (saved.config, saved.version) == (before.config, before.version)
    assert len(saved.files) > 1
    out = converted(tmp_path / "saved", tmp_path / "out", "hf")
    assert equal(load_file(out / "model.safetensors"), load_file(folder / "model.safetensors"))
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"  # transformers 4 knows no other
    assert isinstance(LlamaConfig.from_pretrained(out), LlamaConfig)
    ids = AutoTokenizer.from_pretrained(out, local_files_only=True)("A llama's tale")["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(folder, local_files_only=True)("A llama's tale")["input_ids"]


@pytest.mark.parametrize(("generation", "wanted"), [({"eos_token_id": [513, 521]}, [513, 521]), ({}, 521)])
def test_generation_config_says_where_answers_end(generation: Any, wanted: Any, folder: Path, tmp_path: Path) -> None:
    """As in the official chat models, whose config.json names one end only; without it config.json counts."""
    config, other = folder / "config.json", folder / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": 521}))
    other.write_text(json.dumps(generation))
    out = converted(folder, tmp_path / "out", "mlx")
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == wanted
