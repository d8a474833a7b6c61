"""Contract: every known mistake is seen by the level that must see it and named; a right pair has no cause."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_convert.convert import Request, convert_checkpoint, open_checkpoint, plan_conversion
from llama_convert.convert.containers.slices import DType
from llama_convert.verify.causes import CAUSES
from llama_convert.verify.diagnosis import diagnose
from llama_convert.verify.report import Parting, Verdict
from llama_convert.verify.structure import check_structure
from llama_convert.verify.tensors import check_tensors, compare_tensors
from llama_convert.verify.views import canonical_blocks, canonical_rows, copies
from tests.convert.test_huggingface_quantised import KINDS
from tests.verify.changes import changing, left_in_pairs, three_values, through
from tests.verify.mistakes import LAST, MISTAKES, MODELS

SEEN_THROUGH_QUANTISING = [
    "3.1-gate and up swapped in the last layer",
    "3.1-norms swapped in the last layer",
    "3.1-k reordered with twice the heads in the last layer",
    "3.1-rows of 4 pieces exchanged in the last layer",
    "3.1-columns of 4 pieces exchanged in the last layer",
    "3.1-columns joined as rows in the last layer",
    "3.1-rows joined as columns in the last layer",
    "3.1-rows of the vocabulary shifted down",
    "3.1-layers exchanged",
    "3.1-down of another model",
    "3.1-rows zeroed in the last layer",
    "3.1-o transposed in the last layer",
    "3.1-head tied",
]
PARTING = Parting(layer=1, operation="attention", difference=0.5, gate=1e-4)


def quantised(folder, out, settings, stored):
    """The folder with these tensors and this in its config."""
    out.mkdir()
    shutil.copy(folder / "tokenizer.json", out)
    (out / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | settings))
    tensors = {name: tensor.contiguous() for name, tensor in stored.items()}
    save_file(tensors, out / "model.safetensors", {"format": "mlx" if "quantization" in settings else "pt"})
    return out


def diagnosed(a, b, parting=None):
    return diagnose(a, b, list(compare_tensors(a, b)), parting)


def layers_of(sentence):
    """The layers that a sentence names."""
    found = set()
    for first, last in re.findall(
        r"(?<=[a-z] |, )(\d+)(?:-(\d+))?", " ".join(re.findall(r"layers? [\d, -]+", sentence))
    ):
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_seen_and_named(name, open_pair):
    mistake = MISTAKES[name]
    a, b = open_pair(MODELS[mistake.model], mistake.make)
    failed = {level.name for level in (check_structure(a, b), check_tensors(a, b)) if level.verdict is Verdict.FAILED}
    assert failed == mistake.levels - {"logits"}
    found = diagnosed(a, b, PARTING)
    assert [one.cause for one in found][:1] == [mistake.cause], found
    assert {one.cause for one in found} == {mistake.cause}, found
    if mistake.layers is not None:
        assert set(layers_of(" ".join(one.sentence for one in found))) == set(mistake.layers), found
    assert all(one.fix == CAUSES[one.cause].fix and b.path.name in one.sentence for one in found)
    assert not re.search(r"[{}]", " ".join(one.sentence for one in found))


def test_every_cause_has_its_mistake():
    of_quantised = {"quantised-another-way", "sides-exchanged"}  # tested with the logits of quantised types
    assert {mistake.cause for mistake in MISTAKES.values()} | of_quantised == {
        name for name, cause in CAUSES.items() if not cause.vague
    }


def test_the_page_names_every_cause():
    page = (Path(__file__).parents[2] / "docs" / "verification.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(-?[a-z0-9-]+)`", page))
    short = {name for name in CAUSES if any(tail.startswith("-") and name.endswith(tail) for tail in named)}
    assert {name for name, cause in CAUSES.items() if not cause.vague} <= named | short


@pytest.mark.parametrize("case", ["2", "3.1", "3.1-4shards", "3.2", "3.2-tied-by-value", "3.1-16shards-kv-twice"])
def test_a_right_pair_has_no_cause(case, open_pair):
    a, b = open_pair(MODELS[case])
    assert diagnosed(a, b) == diagnosed(b, a) == ()


def test_two_mistakes_are_two_causes_the_config_first(open_pair):
    def both(weights, config, model):
        config["rope_theta"] = 1e6
        changing(("k",), LAST, left_in_pairs)(weights, config, model)
        changing(("down",), (0,), three_values)(weights, config, model)

    found = diagnosed(*open_pair(MODELS["3.1"], both))
    assert [one.cause for one in found] == ["wrong-theta", "few-values-changed", "rotary-order"]
    assert "key projection of layer 1" in found[2].sentence


def test_a_detour_does_not_hide_another_mistake(open_pair):
    def both(weights, config, model):
        changing(("k",), LAST, left_in_pairs)(weights, config, model)
        changing(("k", "down"), LAST, through(torch.float16))(weights, config, model)

    found = diagnosed(*open_pair(MODELS["3.1-tiny"], both))
    assert [one.cause for one in found] == ["rotary-order", "float16-detour"]


def test_what_has_no_name_is_told_by_its_place(open_pair):
    def some_rows(weights, config, model):
        weights["model.layers.1.mlp.up_proj.weight"][100:180] += 0.25

    a, b = open_pair(MODELS["3.1"], some_rows)
    assert [one.cause for one in diagnosed(a, b)] == ["values-differ"]
    found = diagnosed(a, b, PARTING)
    assert [one.cause for one in found] == ["values-differ", "unknown"]
    assert "attention of layer 1" in found[-1].sentence
    assert [one.cause for one in diagnosed(a, a, PARTING)] == ["unknown"]


@pytest.mark.parametrize("case", ["3.1-4shards", "3.1-16shards-kv-twice", "2-2shards"])
def test_single_rows_are_those_of_the_tensor(case, meta_checkpoint):
    checkpoint = open_checkpoint(meta_checkpoint(MODELS[case]))
    for weight in checkpoint.parts:
        every = torch.cat(list(canonical_blocks(checkpoint, weight)))
        rows = torch.tensor([len(every) - 1, 3, 0, 4, 3])
        for copy in range(copies(checkpoint, weight)):
            assert torch.equal(canonical_rows(checkpoint, weight, rows, copy), every[rows])


@pytest.mark.parametrize("name", SEEN_THROUGH_QUANTISING)
def test_a_mistake_is_named_though_b_is_quantised(name, make_pair, tmp_path):
    """Types whose values can be computed again: bit for bit."""
    mistake = MISTAKES[name]
    meta, folder = make_pair(MODELS[mistake.model], mistake.make)
    made = convert_checkpoint(
        plan_conversion(folder, to="gguf", request=Request(quantize=DType.Q4_0)), tmp_path / "gguf"
    )
    check_named(mistake, open_checkpoint(meta, "3.1"), open_checkpoint(made.folder))


@pytest.mark.parametrize("name", SEEN_THROUGH_QUANTISING)
def test_a_mistake_is_named_though_b_cannot_be_computed_again(name, make_pair, tmp_path):
    """Codes of 4 bits that nobody can repeat: the nearest of all that B might hold. The right tensors have no cause."""
    mistake = MISTAKES[name]
    meta, folder = make_pair(MODELS[mistake.model], mistake.make)
    settings, make = KINDS["mlx 4 bits"]
    made = quantised(folder, tmp_path / "quantised", settings, make(load_file(folder / "model.safetensors"))[0])
    check_named(mistake, open_checkpoint(meta, "3.1"), open_checkpoint(made))


def check_named(mistake, a, b):
    found = diagnosed(a, b)
    assert {one.cause for one in found} == {mistake.cause}, found
    assert set(layers_of(" ".join(one.sentence for one in found))) == set(mistake.layers), found


def test_a_detour_of_a_cast_is_no_detour(open_pair):
    """B is declared float16: what that cannot hold is no mistake."""

    def cast(weights, config, model):
        weights.update({name: weight.half() for name, weight in weights.items()})

    a, b = open_pair(MODELS["3.1-tiny"], cast)
    assert diagnosed(a, b) == ()


def test_only_a_head_count_that_explains_rows_excuses_them(open_pair):
    """With the heads counted wrong, other rows are read of right weights; a row that is wrong is still named."""

    def both(weights, config, model):
        MISTAKES["3.1-half the heads"].make(weights, config, model)
        changing(("v",), LAST, three_values)(weights, config, model)

    a, b = open_pair(MODELS["3.1"], both)
    found = diagnosed(a, b)
    assert found[0].cause == "wrong-head-count"
    assert "value projection of layer 1" in " ".join(one.sentence for one in found[1:])
    assert diagnosed(a, replace(a, path=b.path)) == ()
