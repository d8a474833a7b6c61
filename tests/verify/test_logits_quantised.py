"""Contract: a quantised model's logits are judged exactly where they can be, else by what its types explain."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from llama_convert.verify.compare import check_logits, compare_logits
from llama_convert.verify.devices import choose, exact
from llama_convert.verify.diagnosis import diagnose
from llama_convert.verify.tensors import check_tensors, compare_tensors
from tests.verify.naive_quantisers import QUANTISERS


def compared(a, b):
    with exact():
        return compare_logits(a, b, choose("cpu"))


def of_another_layer(weights):
    """All of the first layer's attention."""
    for name in ("wq", "wk", "wv", "wo"):
        weights[f"layers.0.attention.{name}.weight"] = weights[f"layers.1.attention.{name}.weight"]


@pytest.mark.parametrize("kind", tuple(QUANTISERS), ids=lambda kind: kind.name)
def test_of_a_right_file_no_more_is_lost_than_explained(kind, unquantised, stored):
    found = compared(unquantised, stored(kind))
    assert (found.exact, found.passed, found.parting) == (False, True, None)
    assert found.likeness.mean_divergence > 0.2 * found.allowed.divergence


@pytest.mark.parametrize("kind", [Type.Q6_K, Type.Q4_K], ids=lambda kind: kind.name)
def test_control_another_layers_attention_loses_more(kind, unquantised, stored):
    with exact():
        result, parting = check_logits(unquantised, stored(kind, of_another_layer), choose("cpu"))
    assert (result.verdict.value, parting) == ("failed", None)
    assert f"{kind.name.lower()} explains" in result.findings[0]
    assert result.gate < result.measures["mean_divergence"]


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_0], ids=lambda kind: kind.name)
def test_what_can_be_recomputed_is_held_against_that(kind, unquantised, stored):
    found = compared(unquantised, stored(kind))
    assert found.exact
    assert found.rounded
    assert found.difference <= found.gate < 5e-4
    # Against A as it is there is a loss, which is told and not judged.
    assert found.likeness.mean_divergence > 1e-4
    assert found.allowed is None
    assert not compared(unquantised, stored(kind, of_another_layer)).passed


def test_codes_moved_as_they_are_lose_nothing(stored, tmp_path):
    from dataclasses import replace

    once = stored(Type.Q4_K)
    found = compared(once, replace(once))
    assert (found.exact, found.passed, found.difference, found.allowed) == (True, True, 0.0, None)


def smaller_scales(name, data):
    """As a search for better scales may choose them: another half in front of each block."""
    blocks = data.reshape(-1, 18)
    blocks[:, :2] = (blocks[:, :2].copy().view(np.float16) * np.float16(0.98)).view(np.uint8)


def test_other_scales_are_named_and_not_taken_for_damage(unquantised, stored):
    other = stored(Type.Q4_0, spoil=smaller_scales)
    assert check_tensors(unquantised, other).verdict.value == "failed"
    found = diagnose(unquantised, other, list(compare_tensors(unquantised, other)), None)
    assert {one.cause for one in found} == {"quantised-another-way"}


def test_sides_in_the_wrong_order_are_named(unquantised, stored):
    rounded = stored(Type.Q8_0)
    found = diagnose(rounded, unquantised, list(compare_tensors(rounded, unquantised)), None)
    assert [one.cause for one in found] == ["sides-exchanged"]
    assert not diagnose(unquantised, rounded, list(compare_tensors(unquantised, rounded)), None)
    wrong = stored(Type.Q8_0, of_another_layer)
    found = diagnose(wrong, unquantised, list(compare_tensors(wrong, unquantised)), None)
    assert "sides-exchanged" not in {one.cause for one in found}
