"""Meta's FP8 checkpoints, quantised here by hand: what is read is exactly code times scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify import verify
from tests.checkpoints import MetaModel, random_model, write_checklist, write_meta
from tests.meta_reference import merge_shards

MODULES = ("w1", "w3", "w2")
HF = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
State = dict[str, Any]


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and one scale a row, as fbgemm's quantize_fp8_per_row gives them."""
    scale = weight.float().abs().amax(dim=1) / torch.finfo(torch.float8_e4m3fn).max
    return (weight.float() / scale[:, None]).to(torch.float8_e4m3fn), scale


def write_fp8(folder: Path, shards: int, *, column: bool = False) -> MetaModel:
    """Inner layers' feed-forward in FP8, as Meta ships the 405B; the model whose values the files mean."""
    model = random_model("3.1", layers=4)
    write_meta(model, folder, shards=shards, tokenizer=model.tokenizer, checklist=False)
    parts: dict[str, list[Tensor]] = {}
    for rank in range(shards):
        path, scales = folder / f"consolidated.{rank:02}.pth", {}
        state = torch.load(path)
        for layer in (1, 2):
            for module in MODULES:
                name = f"layers.{layer}.feed_forward.{module}.weight"
                state[name], scale = quantised(state[name])
                scales[f"{layer}_feed_forward.{module}_{rank}"] = scale[:, None] if column else scale
                parts.setdefault(name, []).append(state[name].float() * scale[:, None])
        torch.save(state, path)
        torch.save(scales, folder / f"fp8_scales_{rank}.pt")
    write_checklist(folder)
    values = {name: torch.cat(found, dim=1 if ".w2." in name else 0) for name, found in parts.items()}
    return MetaModel(params=model.params, weights=model.weights | values, version="3.1")


def change(path: Path, edit: Callable[[State], object]) -> None:
    (path.parent / "checklist.chk").unlink(missing_ok=True)
    state = torch.load(path)
    edit(state)
    torch.save(state, path)


def convert(source: Path, target: Path, to: str = "hf", **request: Any) -> Path:
    return convert_checkpoint(plan_conversion(source, to=to, request=Request(**request)), target).folder


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("dtype", [DType.FLOAT32, None], ids=["float32", "kept"])
def test_values_are_code_times_scale(shards: int, dtype: DType | None, tmp_path: Path) -> None:
    """Exact in float32; in bfloat16, the type of all the rest, rounded once."""
    model = write_fp8(tmp_path / "in", shards, column=shards == 2)
    found = load_file(convert(tmp_path / "in", tmp_path / "out", dtype=dtype) / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32 if dtype else torch.bfloat16}
    for layer in range(4):
        for module in MODULES:
            wanted = model.weights[f"layers.{layer}.feed_forward.{module}.weight"]
            out = found[f"model.layers.{layer}.mlp.{HF[module]}.weight"]
            assert torch.equal(out, wanted.to(out.dtype)), (layer, module)
    assert torch.equal(found["lm_head.weight"], model.weights["output.weight"].to(out.dtype))


def test_written_in_metas_format_again(tmp_path: Path) -> None:
    model = write_fp8(tmp_path / "in", 2)
    found = merge_shards(convert(tmp_path / "in", tmp_path / "out", "meta", shards=4))
    assert found.weights.keys() == model.weights.keys()
    assert all(torch.equal(found.weights[name], value.bfloat16()) for name, value in model.weights.items())


def test_verified_against_what_became_of_it(tmp_path: Path) -> None:
    write_fp8(tmp_path / "in", 2)
    target = convert(tmp_path / "in", tmp_path / "out", dtype=DType.FLOAT32)
    assert verify(tmp_path / "in", target).ok


def test_the_rounding_is_said(tmp_path: Path) -> None:
    write_fp8(tmp_path / "in", 2)
    plan = plan_conversion(tmp_path / "in")
    assert any("quantised (float8_e4m3fn)" in note for note in plan.notes)
    assert plan.source.dtype is DType.BFLOAT16


def test_missing_scales_are_named(tmp_path: Path) -> None:
    write_fp8(tmp_path / "in", 4)
    (tmp_path / "in" / "checklist.chk").unlink()
    for rank in (1, 3):
        (tmp_path / "in" / f"fp8_scales_{rank}.pt").unlink()
    with pytest.raises(CheckpointError, match="2 files missing") as error:
        open_checkpoint(tmp_path / "in")
    assert error.value.problems == ("fp8_scales_1.pt", "fp8_scales_3.pt")


KEY = "1_feed_forward.w2_1"
MISFITS: dict[str, tuple[Callable[[State], object], str]] = {
    "one is missing": (lambda scales: scales.pop(KEY), f"missing  {KEY}"),
    "one too many": (
        lambda scales: scales.update({KEY.replace("1_", "0_", 1): scales[KEY]}),
        "unknown  0_feed_forward",
    ),
    "too few": (lambda scales: scales.update({KEY: scales[KEY][:-1].clone()}), f"{KEY} is float32 (191,)"),
    "no numbers": (lambda scales: scales.update({KEY: scales[KEY].to(torch.int32)}), f"{KEY} is int32 (192,)"),
    "of another rank": (
        lambda scales: scales.update({key[:-1] + "0": scales.pop(key) for key in list(scales)}),
        "unknown  1_feed_forward.w1_0",
    ),
}


@pytest.mark.parametrize(("edit", "words"), MISFITS.values(), ids=list(MISFITS))
def test_scales_that_do_not_fit_are_refused(edit: Callable[[State], object], words: str, tmp_path: Path) -> None:
    write_fp8(tmp_path / "in", 2)
    change(tmp_path / "in" / "fp8_scales_1.pt", edit)
    with pytest.raises(CheckpointError, match="scales do not fit") as error:
        open_checkpoint(tmp_path / "in")
    assert any(problem.startswith(f"fp8_scales_1.pt: {words}") for problem in error.value.problems)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("layers.1.attention.wq.weight", torch.float8_e4m3fn),
        ("layers.1.feed_forward.w1.weight", torch.int8),
        ("layers.1.feed_forward.w1.weight", torch.float8_e5m2),
    ],
)
def test_other_quantised_weights_are_refused(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = random_model("3.1")
    write_meta(model, tmp_path / "in", tokenizer=model.tokenizer)
    change(tmp_path / "in" / "consolidated.00.pth", lambda state: state.update({name: state[name].to(dtype)}))
    with pytest.raises(CheckpointError, match="quantised weights are not supported"):
        open_checkpoint(tmp_path / "in")


def test_a_lost_scale_would_be_seen(tmp_path: Path) -> None:
    """Negative control: one wrong scale of thousands."""
    write_fp8(tmp_path / "in", 2)
    target = convert(tmp_path / "in", tmp_path / "out", dtype=DType.FLOAT32)
    change(tmp_path / "in" / "fp8_scales_0.pt", lambda scales: scales["2_feed_forward.w1_0"][3:4].mul_(2))
    assert not verify(tmp_path / "in", target, ["tensors"]).ok
