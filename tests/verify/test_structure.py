"""Contract: the structure level names every config field that differs, with both values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.checkpoint import Parts
from llama_convert.verify.report import Verdict
from llama_convert.verify.structure import check_structure
from tests.checkpoints import CASES

BY_NAME = {case.name: case for case in CASES}
CHANGES = {
    "hidden_size": (96, "hidden_size: 192 against 96"),
    "layers": (3, "layers: 2 against 3"),
    "heads": (6, "heads: 12 against 6"),
    "kv_heads": (12, "kv_heads: 4 against 12"),
    "norm_eps": (1e-6, "norm_eps: 1e-05 against 1e-06"),
    "rope_theta": (10000.0, "rope_theta: 500000 against 10000"),
    "rope_scaling": (None, "rope_scaling: RopeScaling("),
    "context": (2048, "context: 131072 against 2048"),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_right_conversion_agrees(case, open_pair):
    a, b = open_pair(case)
    for sides in ((a, b), (b, a), (a, None), (b, None)):
        result = check_structure(*sides)
        assert (result.verdict, result.findings, result.warnings) == (Verdict.PASSED, (), ())


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_that_differs_is_named_with_both_values(field, open_pair):
    value, line = CHANGES[field]
    a, b = open_pair(BY_NAME["3.1"])
    result = check_structure(a, replace(b, config=replace(b.config, **{field: value})))
    assert result.verdict is Verdict.FAILED
    assert any(finding.startswith(line) for finding in result.findings)


def test_a_factor_is_named_by_itself(open_pair):
    a, b = open_pair(BY_NAME["3.1"])
    scaling = replace(b.config.rope_scaling, factor=32.0)
    result = check_structure(a, replace(b, config=replace(b.config, rope_scaling=scaling)))
    assert result.findings == ("rope_scaling.factor: 8 against 32",)


def test_what_changes_no_logit_is_a_warning(open_pair):
    """Meta's files store no context; a stored head may equal the embedding."""
    a, b = open_pair(BY_NAME["3"])
    result = check_structure(b, replace(a, config=replace(a.config, context=1024, tied=True)))
    assert result.verdict is Verdict.PASSED
    assert result.warnings == ("context: 8192 against 1024", "tied: False against True")


def test_missing_left_over_and_misshapen_weights_are_named(open_pair):
    _, b = open_pair(BY_NAME["3"])
    parts = dict(b.parts)
    del parts[Weight(Role.FINAL_NORM)]
    parts[Weight(Role.GATE, 2)] = parts[Weight(Role.GATE, 1)]
    parts[Weight(Role.KEY, 0)] = Parts((parts[Weight(Role.KEY, 0)].pieces[0].rows(0, 32),), None)
    findings = check_structure(replace(b, parts=parts), None).findings
    assert [finding.removeprefix(f"{b.path}: ") for finding in findings] == [
        "model.norm.weight is missing",
        "model.layers.0.self_attn.k_proj.weight is (32, 192), the config says (64, 192)",
        "model.layers.2.mlp.gate_proj.weight is beyond the 2 layers",
    ]
