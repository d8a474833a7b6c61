"""Contract: a right pair passes every level, and every known mistake fails in the level that must see it."""

from __future__ import annotations

import json

import pytest
import torch

from llama_convert.convert.errors import UsageError
from llama_convert.verify import LEVELS, Verdict, compare, verify, verify_levels
from llama_convert.verify.compare import CEILING
from llama_convert.verify.devices import choose, exact
from tests.checkpoints import CASES
from tests.test_reference_agreement import MISTAKES

BY_NAME = {case.name: case for case in CASES}


def flipped_bit(weights, config, model):
    weights["model.layers.1.mlp.down_proj.weight"].view(torch.int16)[100, 100] ^= 1


def zeroed_row(weights, config, model):
    """Of a token that the prompt of the logits level does not contain."""
    weights["model.embed_tokens.weight"][5] = 0


def keys_only(weights, config, model):
    before = {name: weight for name, weight in weights.items() if "q_proj" in name}
    MISTAKES["3.1-no-permutation"](weights, config, model)
    weights.update(before)


def shards_exchanged(weights, config, model):
    for name in [name for name in weights if "o_proj" in name]:
        weights[name] = torch.cat(list(reversed(weights[name].chunk(2, dim=1))), dim=1)


VALUES = ("tensors", "logits")
CONFIG = ("structure", "logits")
SEEN_BY = {
    "3.1-no-permutation": VALUES,
    "3.1-keys-by-wrong-heads": VALUES,
    "3.1-gate-and-up": VALUES,
    "3.1-norms": VALUES,
    "3.1-eps": CONFIG,
    "3.1-theta": CONFIG,
    "3.1-scaling-lost": CONFIG,
    "3.1-scaling-factor": CONFIG,
    "2-no-permutation": VALUES,
    "2-gate-and-up": VALUES,
    "2-norms": VALUES,
    "2-theta": CONFIG,
}
OWN = {
    "keys-only": (keys_only, VALUES),
    "shards-exchanged": (shards_exchanged, VALUES),
    "flipped-bit": (flipped_bit, ("tensors",)),
    "zeroed-row": (zeroed_row, ("tensors",)),
}


def compare_logits(a, b, precision=None):
    with exact():
        return compare.compare_logits(a, b, choose("cpu", precision))


def failed(report):
    return {level.name for level in report.levels if level.verdict is Verdict.FAILED}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_right_pair_passes_every_level(case, make_pair):
    a, b = make_pair(case)
    for report in (verify(a, b, llama_version=case.version), verify(b, a, llama_version=case.version)):
        assert [(level.name, level.verdict) for level in report.levels] == [(name, Verdict.PASSED) for name in LEVELS]
        assert report.ok
        json.dumps(report.as_json())


@pytest.mark.parametrize("case", ["2", "3.2", "3.1-4shards"])
def test_one_sound_side_passes(case, make_pair):
    for side in make_pair(BY_NAME[case]):
        report = verify(side, llama_version=BY_NAME[case].version)
        assert report.ok
        assert report.b is None


@pytest.mark.parametrize("name", SEEN_BY)
def test_a_known_mistake_is_seen_where_it_must_be(name, make_pair):
    version = name.partition("-")[0]
    a, b = make_pair(BY_NAME[version], MISTAKES[name])
    # The files may then fit another version: what they are said to be is only said of A.
    report = verify(a, b)
    assert failed(report) == set(SEEN_BY[name])
    assert not report.ok


@pytest.mark.parametrize("name", OWN)
def test_a_small_mistake_is_seen_where_it_must_be(name, make_pair):
    mistake, levels = OWN[name]
    report = verify(*make_pair(BY_NAME["3.1"], mistake))
    assert set(levels) <= failed(report)


@pytest.mark.parametrize("name", SEEN_BY)
def test_every_mistake_is_far_above_the_largest_gate(name, open_pair):
    found = compare_logits(*open_pair(BY_NAME[name.partition("-")[0]], MISTAKES[name]))
    assert found.difference > 8 * CEILING


@pytest.mark.parametrize("case", CASES, ids=str)
def test_noise_leaves_the_gate_below_its_ceiling(case, open_pair):
    found = compare_logits(*open_pair(case))
    assert found.precision == "float32"
    assert found.difference < found.gate / 2
    assert found.likeness.same_first > 0.99
    assert found.likeness.largest_divergence < 1e-6
    assert found.parting is None


def test_where_float32_is_too_noisy_float64_decides(open_pair, monkeypatch):
    monkeypatch.setattr("llama_convert.verify.compare.CEILING", 0.0)
    found = compare_logits(*open_pair(BY_NAME["3.1"]))
    assert (found.precision, found.passed) == ("float64", True)
    assert found.difference < 1e-12
    assert not compare_logits(*open_pair(BY_NAME["3.1"], flipped_bit)).passed


def test_a_cast_is_judged_by_what_it_rounds_to(make_pair):
    def cast(weights, config, model):
        weights.update({name: weight.half() for name, weight in weights.items()})

    report = verify(*make_pair(BY_NAME["1"], cast))
    assert report.ok
    report = verify(*make_pair(BY_NAME["3.1"], cast))
    assert report.ok
    assert "dtype: bfloat16 against float16" in report.levels[1].warnings
    assert "A rounded to B's types" in report.levels[4].figures


def test_numbers_that_are_none_fail_alone(make_pair):
    def spoil(weights, config, model):
        weights["model.norm.weight"][0] = torch.nan

    _, b = make_pair(BY_NAME["3"], spoil)
    report = verify(b)
    assert report.levels[2].warnings == (f"{b.name}/model.norm.weight: 1 value NaN or infinite",)
    assert failed(report) == {"logits"}


def test_levels_come_one_by_one_and_by_name(make_pair):
    pair = make_pair(BY_NAME["3"])
    assert [level.name for level in verify(*pair, levels=("logits", "structure")).levels] == ["structure", "logits"]
    results = verify_levels(*pair)
    assert next(results).name == "files"
    for levels in (("tensor",), ()):
        with pytest.raises(UsageError, match="evel"):
            verify_levels(*pair, levels=levels)
