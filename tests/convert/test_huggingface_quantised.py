"""Quantised Hugging Face and MLX folders: their values, judged by torch's own arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_convert.convert import CheckpointError, Request, convert_checkpoint, open_checkpoint, plan_conversion
from llama_convert.convert.containers.slices import DType
from llama_convert.verify import verify
from tests.checkpoints import CASES
from tests.meta_reference import GATE, random_tokens, relative_difference, transformers_logits

Weights = dict[str, Tensor]
GROUP = 32


def by_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """fp8 with a scale for each row, as fbgemm and compressed-tensors' channel strategy have it."""
    scale = weight.float().abs().amax(1, keepdim=True) / 448
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale


def whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight.float().abs().max().reshape(1) / 448
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale


def int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = (weight.float().abs().amax(1, keepdim=True) / 127).bfloat16()
    return (weight.float() / scale.float()).round().clamp(-127, 127).to(torch.int8), scale


def coded(make: Callable[[Tensor], tuple[Tensor, Tensor]], weights: Weights) -> tuple[Weights, Weights]:
    """The tensors of a quantised folder, and what its matrices are worth."""
    stored, worth = {}, {}
    for name, weight in weights.items():
        stored[name], worth[name] = weight, weight
        if "_proj" in name:
            codes, scale = make(weight)
            stored |= {name: codes, f"{name}_scale": scale}
            worth[name] = codes.float() * scale.float()
    return stored, worth


def affine(bits: int, weights: Weights) -> tuple[Weights, Weights]:
    """MLX's codes, embedding included: packed into words from the lowest bits on, element by element."""
    stored, worth = {}, {}
    for name, weight in weights.items():
        stored[name], worth[name] = weight, weight
        if weight.ndim == 2:
            groups = weight.float().reshape(len(weight), -1, GROUP)
            bias = groups.amin(2).bfloat16()
            scale = ((groups.amax(2) - bias.float()) / (2**bits - 1)).bfloat16()
            codes = ((groups - bias.float()[..., None]) / scale.float()[..., None]).round().clamp(0, 2**bits - 1)
            numbers = codes.reshape(len(weight), -1, 32 // bits).long()
            words = sum(numbers[..., place] << (bits * place) for place in range(32 // bits))
            stored |= {name: words.to(torch.uint32), f"{name[:-6]}scales": scale, f"{name[:-6]}biases": bias}
            worth[name] = (codes * scale.float()[..., None] + bias.float()[..., None]).reshape(weight.shape)
    return stored, worth


FBGEMM: dict[str, Any] = {"quantization_config": {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]}}
FLOAT: dict[str, Any] = {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}}
INT: dict[str, Any] = {"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized"}}
MLX4: dict[str, Any] = {"quantization": {"group_size": GROUP, "bits": 4}}
MLX8: dict[str, Any] = {"quantization": {"group_size": GROUP, "bits": 8, "mode": "affine"}}
KINDS = {
    "fbgemm_fp8": (FBGEMM, lambda weights: coded(by_rows, weights)),
    "compressed float, a scale a row": (FLOAT, lambda weights: coded(by_rows, weights)),
    "compressed float, one scale": (FLOAT, lambda weights: coded(whole, weights)),
    "compressed int": (INT, lambda weights: coded(int8, weights)),
    "mlx 4 bits": (MLX4, lambda weights: affine(4, weights)),
    "mlx 8 bits": (MLX8, lambda weights: affine(8, weights)),
}


@pytest.fixture(scope="module")
def plain(meta_checkpoint, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("plain") / "hf"
    convert_checkpoint(plan_conversion(meta_checkpoint(CASES[4]), llama_version=CASES[4].version), folder)
    return folder


def quantised(plain: Path, folder: Path, config: dict[str, Any], stored: Weights) -> Path:
    """The plain folder with these tensors and this in its config."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes((plain / name).read_bytes())
    values = json.loads((plain / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))
    mark = "mlx" if "quantization" in config else "pt"
    save_file(
        {name: tensor.contiguous() for name, tensor in stored.items()}, folder / "model.safetensors", {"format": mark}
    )
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [DType.FLOAT32, None], ids=["float32", "as the model"])
def test_every_value_is_what_the_codes_are_worth(kind: str, dtype: DType | None, plain: Path, tmp_path: Path) -> None:
    config, make = KINDS[kind]
    stored, worth = make(load_file(plain / "model.safetensors"))
    folder = quantised(plain, tmp_path / "in", config, stored)
    plan = plan_conversion(folder, request=Request(dtype=dtype))
    convert_checkpoint(plan, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    wanted_type = torch.float32 if dtype else torch.bfloat16
    assert found.keys() == worth.keys()
    for name, weight in worth.items():
        assert torch.equal(found[name], weight.to(wanted_type)), name
    assert any("rounded" in note for note in plan.notes) == (dtype is None)
    assert verify(folder, tmp_path / "out").ok
    assert open_checkpoint(tmp_path / "out").format.name == "hf"


def test_quantisation_is_seen_in_the_logits(plain: Path, tmp_path: Path) -> None:
    """Negative control: the values are those of the codes, not of the model before it was quantised."""
    stored, _ = KINDS["mlx 4 bits"][1](load_file(plain / "model.safetensors"))
    folder = quantised(plain, tmp_path / "in", MLX4, stored)
    convert_checkpoint(plan_conversion(folder), tmp_path / "out")
    tokens = random_tokens(512, 64)
    difference = relative_difference(transformers_logits(plain, tokens), transformers_logits(tmp_path / "out", tokens))
    assert difference > 50 * GATE
    assert not verify(plain, tmp_path / "out").ok


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised weights (gptq) are not supported"),
        ({"quant_method": "awq"}, "quantised weights (awq) are not supported"),
        ({"quant_method": "bitsandbytes"}, "quantised weights (bitsandbytes) are not supported"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
            "(compressed-tensors, format pack-quantized)",
        ),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, "quantised weights (mxfp4) are not supported"),
    ],
)
def test_others_are_refused_by_name(settings: dict[str, Any], words: str, plain: Path, tmp_path: Path) -> None:
    folder = quantised(
        plain, tmp_path / "in", {"quantization_config": settings}, load_file(plain / "model.safetensors")
    )
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["fbgemm_fp8", "mlx 4 bits"])
def test_all_missing_scales_are_named(kind: str, plain: Path, tmp_path: Path) -> None:
    config, make = KINDS[kind]
    stored, _ = make(load_file(plain / "model.safetensors"))
    lost = [name for name in stored if name.endswith(("scale", "scales"))][:3]
    folder = quantised(plain, tmp_path / "in", config, {name: stored[name] for name in stored if name not in lost})
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert sorted(caught.value.problems) == sorted(f"missing  {name}" for name in lost)


def test_scales_of_another_shape_are_refused(plain: Path, tmp_path: Path) -> None:
    stored, _ = KINDS["fbgemm_fp8"][1](load_file(plain / "model.safetensors"))
    name = "model.layers.0.mlp.up_proj.weight_scale"
    folder = quantised(plain, tmp_path / "in", FBGEMM, stored | {name: stored[name][:7]})
    with pytest.raises(CheckpointError, match="one for each of"):
        open_checkpoint(folder)
