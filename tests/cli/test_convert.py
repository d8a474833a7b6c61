"""What the commands do when all is well: convert, its options, inspect, verify."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.commands import Result, flip_byte, leftovers
from tests.meta_reference import random_tokens, transformers_logits

Source = Callable[..., Path]
Run = Callable[..., Result]
NORM = "model.norm.weight"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dtype_casts_as_torch_does(source: Source, run: Run, output: Path, dtype: torch.dtype) -> None:
    folder = source("3-2shards")
    kept, name = output.with_name("kept"), str(dtype).removeprefix("torch.")
    assert run("convert", folder, kept).status == 0
    assert run("convert", folder, output, "--dtype", name).status == 0
    before, after = weights(kept), weights(output)
    assert {tensor.dtype for tensor in before.values()} == {torch.bfloat16}
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key].view(torch.uint8), before[key].to(dtype).view(torch.uint8)) for key in before)
    assert json.loads((output / "config.json").read_text())["torch_dtype"] == name


def test_several_weight_files_are_the_same_model(
    source: Source, run: Run, output: Path, converted: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    assert run("convert", source("3-2shards"), whole).status == 0
    index = json.loads((converted / "model.safetensors.index.json").read_text())
    files = sorted(converted.glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-{number:05}-of-00004.safetensors" for number in range(1, 5)]
    assert all(file.stat().st_size < 1_001_000 for file in files)
    assert index["weight_map"] == {name: file.name for file in files for name in load_file(file)}
    tokens = random_tokens(768, 64)
    assert torch.equal(transformers_logits(converted, tokens), transformers_logits(whole, tokens))


@pytest.mark.parametrize("form", ["convert", "script"])
def test_a_dry_run_prints_the_plan_and_writes_nothing(source: Source, run: Run, output: Path, form: str) -> None:
    folder = source("3-2shards")
    start = ["convert", folder, output] if form == "convert" else ["--input_dir", folder, "--output_dir", output]
    result = run(*start, "--dry-run", "--shard-size", "1MB")
    assert result.status == 0
    for words in ("Llama 3, ", "rotary order changed", "model-00004-of-00004.safetensors", "tokenizer.json", "disk "):
        assert words in result.out
    assert leftovers(output) == []


@pytest.mark.parametrize("form", ["convert", "script"])
def test_a_dry_run_as_json(source: Source, run: Run, output: Path, form: str) -> None:
    folder = source("3-2shards")
    start = ["convert", folder, output] if form == "convert" else ["--input_dir", folder, "--output_dir", output]
    plan = run(*start, "--dry-run", "--json").json["plan"]
    assert run("convert", folder, output, "-q").status == 0
    (file,) = plan["files"]
    assert file["nbytes"] == plan["nbytes"] == (output / "model.safetensors").stat().st_size
    assert sorted(file["tensors"]) == sorted(load_file(output / "model.safetensors"))
    written = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert written == {file["name"], *plan["side_files"], "conversion.json"}


def test_quiet_prints_the_result_alone(source: Source, run: Run, output: Path) -> None:
    result = run("convert", source("3-2shards"), output, "--quiet")
    assert result.err == ""
    assert result.out == f"{output}: 2.6 MB in 1 weight file, 37 checksums held\n"


def test_json_prints_one_object_and_nothing_else(source: Source, run: Run, output: Path) -> None:
    result = run("convert", source("3-2shards"), output, "--json", "--verify")
    assert result.status == 0
    assert result.json["ok"] is True
    assert result.json["folder"] == str(output)
    assert result.json["records_checked"] == 37
    assert result.json["verified"]["ok"] is True


def test_the_certificate_says_what_was_made_of_what(source: Source, run: Run, output: Path) -> None:
    """Sizes and digests of both sides, the origin of each tensor, and no path of this machine."""
    folder = source("3-2shards", checklist=True)
    assert run("convert", folder, output).status == 0
    text = (output / "conversion.json").read_text()
    assert str(folder.parent) not in text
    found = json.loads(text)
    assert found["source"]["format"] == "meta"
    assert found["source"]["llama_version"] == "3"
    assert found["source"]["crc32_records_checked"] == 37
    shard = found["source"]["files"]["consolidated.01.pth"]
    assert shard["size"] == (folder / "consolidated.01.pth").stat().st_size
    assert shard["checklist"] == hashlib.md5((folder / "consolidated.01.pth").read_bytes()).hexdigest()
    for name in ("params.json", "tokenizer.model"):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert found["source"]["files"][name]["sha256"] == digest
    written = {str(path.relative_to(output)): path for path in output.rglob("*") if path.is_file()}
    del written["conversion.json"]
    assert found["target"]["files"].keys() == written.keys()
    for name, path in written.items():
        assert found["target"]["files"][name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["tensors"].keys() == weights(output).keys()
    query = found["tensors"]["model.layers.1.self_attn.q_proj.weight"]
    assert query["from"] == ["layers.1.attention.wq.weight"]
    assert query["files"] == ["consolidated.00.pth", "consolidated.01.pth"]
    assert "rotary order changed" in query["done"]
    assert (query["dtype"], query["shape"]) == ("bfloat16", [192, 192])


def test_verify_after_converting(source: Source, run: Run, output: Path) -> None:
    result = run("convert", source("3-2shards"), output, "--verify")
    assert result.status == 0
    assert result.out.rstrip().endswith("the same model")


def test_verify_tells_the_same_model_from_another(source: Source, run: Run, converted: Path) -> None:
    folder = source("3-2shards")
    result = run("verify", folder, converted)
    assert result.status == 0
    assert result.out.endswith(f"{folder} and {converted}: the same model\n")
    flip_byte(folder / "consolidated.00.pth", "data/1")
    result = run("verify", folder, converted)
    assert result.status == 1
    assert result.out.endswith(f"{folder} and {converted}: NOT THE SAME MODEL\n")
    assert "query projection of layer 0" in result.out
    assert run("verify", folder, converted, "--level", "tokenizer,structure").status == 0


def test_verify_as_json(source: Source, run: Run, converted: Path) -> None:
    found = run("verify", source("3-2shards"), converted, "--json", "--level", "structure,tensors").json
    assert found["ok"] is True
    assert [level["name"] for level in found["levels"]] == ["structure", "tensors"]


def test_inspect(source: Source, run: Run) -> None:
    folder = source()
    result = run("inspect", folder)
    assert result.status == 0
    for words in (
        "3.1",
        "(would also fit 3.2, 3.3, guard-3)",
        "12 heads of 16, 4 kv heads",
        "theta 500000",
        "tiktoken",
    ):
        assert words in result.out
    assert "layers.0.attention.wq.weight" not in result.out
    assert run("inspect", folder, "--llama_version", "3.3").out.count("3.3") == 1


def test_inspect_lists_the_tensors(source: Source, run: Run) -> None:
    folder = source("3-2shards")
    lines = run("inspect", folder, "--tensors").out.splitlines()
    (line,) = (line for line in lines if line.startswith("norm.weight") and line.endswith("consolidated.01.pth"))
    (found,) = (
        tensor
        for tensor in run("inspect", folder, "--tensors", "--json").json["tensors"]
        if (tensor["name"], tensor["file"]) == ("norm.weight", "consolidated.01.pth")
    )
    assert found["shape"] == [192]
    assert f"{found['offset']:,}" in line
    data = (folder / "consolidated.01.pth").read_bytes()[found["offset"] :][: found["nbytes"]]
    norm = torch.load(folder / "consolidated.01.pth")["norm.weight"]
    assert data == norm.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("side", ["meta", "hf"])
def test_inspect_as_json(source: Source, run: Run, converted: Path, side: str) -> None:
    found = run("inspect", source("3-2shards") if side == "meta" else converted, "--json").json
    assert found["ok"] is True
    assert found["format"] == side
    assert found["llama_version"] == "3"
    assert found["parameters"] == 1_303_488
    assert found["config"]["kv_heads"] == 4
    assert "tensors" not in found
