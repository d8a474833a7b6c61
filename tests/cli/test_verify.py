"""`verify` through the real command: what it prints, its JSON, its exit status, its refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_convert.verify import LEVELS
from tests.cli.commands import Result, change_json
from tests.cli.conftest import check_refusal

Run = Callable[..., Result]


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Path:
    """A converted folder that the test may change."""
    return Path(shutil.copytree(converted, tmp_path / "copy"))


def strict(text: str) -> dict[str, object]:
    """JSON as strict readers take it: without NaN and infinities."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def test_json_has_verdict_figures_and_gate_of_each_level(run: Run, source: Callable[..., Path], copy: Path) -> None:
    found = strict(run("verify", source("3-2shards"), copy, "--json").out)
    assert found["ok"] is True
    assert [level["name"] for level in found["levels"]] == list(LEVELS)
    assert found["diagnosis"] == []
    (logits,) = [level for level in found["levels"] if level["name"] == "logits"]
    assert 0 <= logits["measures"]["difference"] < logits["gate"] < 1e-3
    assert logits["measures"]["positions"] > 256


def test_a_verdict_on_all_levels_is_kept_by_what_was_made_of_a(
    run: Run, source: Callable[..., Path], tmp_path: Path
) -> None:
    a, copy = source("3-2shards"), tmp_path / "converted"
    kept = copy / "conversion.json"
    run("convert", a, copy, "--to", "hf")
    assert "verified" not in json.loads(kept.read_text())
    run("verify", a, copy, "--level", "tensors")
    assert "verified" not in json.loads(kept.read_text())
    run("verify", copy, a)
    other = Path(shutil.copytree(a, tmp_path / "another source"))
    run("verify", other, copy)
    assert "verified" not in json.loads(kept.read_text())
    assert f"The verdict is kept in {kept}." in run("verify", a, copy).err
    found = json.loads(kept.read_text())["verified"]
    assert (found["ok"], [level["name"] for level in found["levels"]]) == (True, list(LEVELS))
    assert run("verify", copy, "--certificate").status == 0


def test_a_wrong_model_is_explained(run: Run, source: Callable[..., Path], copy: Path) -> None:
    change_json(copy / "config.json", rope_theta=10000.0, rope_parameters=...)
    sides = source("3-2shards"), copy
    result = run("verify", *sides)
    assert result.status == 1
    assert "the rotary base is wrong: copy/config.json says rope_theta 10000" in result.out
    assert result.out.endswith("NOT THE SAME MODEL\n")
    found = run("verify", *sides, "--json")
    assert (found.status, [one["cause"] for one in found.json["diagnosis"]]) == (1, ["wrong-theta"])
    alone = run("verify", *sides, "--level", "logits", "--json").json
    assert [one["cause"] for one in alone["diagnosis"]] == ["wrong-theta"]


def test_json_is_strict_where_nothing_is_finite(run: Run, source: Callable[..., Path], copy: Path) -> None:
    for path in copy.glob("*.safetensors"):
        weights = load_file(path)
        if "model.norm.weight" in weights:
            weights["model.norm.weight"][0] = torch.nan
            save_file(weights, path, {"format": "pt"})
    found = strict(run("verify", source("3-2shards"), copy, "--json", "--level", "tensors,logits").out)
    (logits,) = [level for level in found["levels"] if level["name"] == "logits"]
    assert (logits["verdict"], logits["measures"]["difference"]) == ("failed", None)


def test_long_lists_are_cut_in_the_table_only(run: Run, source: Callable[..., Path], copy: Path) -> None:
    for path in copy.glob("*.safetensors"):
        save_file({name: weight + 1 for name, weight in load_file(path).items()}, path, {"format": "pt"})
    sides = (source("3-2shards"), copy, "--level", "tensors")
    assert "and 11 more; --json has all" in run("verify", *sides).out
    assert len(run("verify", *sides, "--json").json["levels"][0]["findings"]) == 21


def test_precision_and_device_are_chosen(run: Run, source: Callable[..., Path], copy: Path) -> None:
    sides = (source("3-2shards"), copy, "--level", "logits", "--device", "cpu")
    result = run("verify", *sides, "--compute", "float64")
    assert "in float64 on CPU" in result.out
    assert result.status == 0
    coarse = run("verify", *sides, "--compute", "bfloat16")
    assert (coarse.status, "not checked" in coarse.out) == (1, True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--device", "gpu"], "'gpu'"),
        (["--compute", "float8"], "'float8'"),
        (["--level", "tensor"], "'tensor'"),
        (["--against", "transformers", "--compute", "float64"], "--against takes A alone"),
    ],
)
def test_what_there_is_not_is_refused(run: Run, converted: Path, options: list[str], text: str) -> None:
    result = run("verify", converted, *options)
    check_refusal(result, 2)
    assert text in result.err
