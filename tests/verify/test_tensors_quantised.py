"""Contract: a right file of a type that nothing recomputes passes, and a wrong tensor in it is found and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify.expectations import expectation
from llama_convert.verify.report import Verdict
from llama_convert.verify.tensors import check_tensors, compare_tensors
from tests.checkpoints import random_model, write_meta
from tests.verify.naive_quantisers import QUANTISERS

KINDS = tuple(QUANTISERS)
Change = Callable[[dict[str, torch.Tensor]], None]
label = pytest.mark.parametrize


def wrong(a: Any, b: Any) -> dict[Weight, Any]:
    return {found.weight: found for found in compare_tensors(a, b) if not found.right}


@label("kind", KINDS, ids=lambda kind: kind.name)
def test_a_right_file_passes(kind, unquantised, stored):
    result = check_tensors(unquantised, stored(kind))
    assert (result.verdict, result.findings, result.warnings) == (Verdict.PASSED, (), ())
    assert result.measures["by_error"] == 16
    assert result.measures["right"] == 21
    assert 0.3 < result.measures["worst_error"] < 1 == result.gate
    assert "16 of 16 as near as their quantised types explain" in result.figures
    assert result.figures.startswith("5 of 5 tensors bit for bit equal")


def rows_in_the_other_order(weights):
    name = "layers.0.attention.wq.weight"
    weights[name] = weights[name].view(8, 16, 2, 256).transpose(1, 2).reshape(256, 256)


def of_another_layer(weights):
    weights["layers.0.attention.wv.weight"] = weights["layers.1.attention.wv.weight"]


def gate_for_up(weights):
    gate, up = (f"layers.1.feed_forward.{name}.weight" for name in ("w1", "w3"))
    weights[gate], weights[up] = weights[up], weights[gate]


def two_rows_exchanged(weights):
    head = weights["output.weight"]
    head[[7, 70]] = head[[70, 7]]


def one_head_lost(weights):
    weights["layers.1.attention.wk.weight"][32:64] = 0


def transposed(weights):
    weights["layers.1.attention.wo.weight"] = weights["layers.1.attention.wo.weight"].T.contiguous()


MISTAKES = {
    rows_in_the_other_order: [Weight(Role.QUERY, 0)],
    of_another_layer: [Weight(Role.VALUE, 0)],
    gate_for_up: [Weight(Role.GATE, 1), Weight(Role.UP, 1)],
    two_rows_exchanged: [Weight(Role.HEAD)],
    one_head_lost: [Weight(Role.KEY, 1)],
    transposed: [Weight(Role.ATTENTION_OUT, 1)],
}


@label("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
@label("kind", KINDS, ids=lambda kind: kind.name)
def test_a_mistake_is_found_in_exactly_its_tensors(kind, mistake, unquantised, stored):
    assert list(wrong(unquantised, stored(kind, mistake))) == MISTAKES[mistake]


def test_the_finding_has_the_error_the_type_and_the_row(unquantised, stored):
    (found,) = check_tensors(unquantised, stored(Type.Q4_K, of_another_layer)).findings
    assert found.startswith("value projection of layer 0: relative error 1.4")
    assert "q4_k explains 0.14; 128 rows too far away, first Q4_K.gguf/blk.0.attn_v.weight[0]" in found
    (found,) = check_tensors(unquantised, stored(Type.Q2_K, two_rows_exchanged)).findings
    assert found.endswith("2 rows too far away, first Q2_K.gguf/output.weight[7]")


# Seen from these on: below, a factor is less than what the type does by itself.
SEEN = {Type.Q6_K: 1.05, Type.Q5_0: 1.1, Type.Q4_K: 1.15, Type.Q2_K: 1.6}


@label("kind", KINDS, ids=lambda kind: kind.name)
def test_a_scale_that_is_off_is_seen_from_a_size_on(kind, unquantised, stored):
    def scaled(weights):
        weights["layers.1.feed_forward.w2.weight"] *= SEEN[kind]

    def by_less(weights):
        weights["layers.1.feed_forward.w2.weight"] *= 1 + (SEEN[kind] - 1) / 8

    assert list(wrong(unquantised, stored(kind, scaled))) == [Weight(Role.DOWN, 1)]
    assert not wrong(unquantised, stored(kind, by_less))


@label("kind", [Type.Q8_0, Type.Q4_0], ids=lambda kind: kind.name)
def test_one_code_is_still_found_where_codes_can_be_recomputed(kind, unquantised, stored):
    def spoil(name, data):
        if name == "blk.1.ffn_up.weight":
            data[3, 10] ^= 1

    assert not wrong(unquantised, stored(kind))
    (found,) = wrong(unquantised, stored(kind, spoil=spoil)).values()
    assert (found.weight, found.difference.count, found.allowed) == (Weight(Role.UP, 1), 1, None)
    assert 0 < found.relative_error < expectation(kind.name.lower()).relative_error


def test_codes_that_were_only_moved_must_be_equal(unquantised, stored, tmp_path):
    """The same type on both sides: nothing was quantised, so nothing explains a difference."""

    def spoil(name, data):
        if name == "blk.1.ffn_up.weight":
            data[3, 20] ^= 1

    first = stored(Type.Q4_K)
    first = open_checkpoint(first.path.rename(tmp_path / "first.gguf"), "3")
    assert not wrong(first, stored(Type.Q4_K))
    (found,) = wrong(first, stored(Type.Q4_K, spoil=spoil)).values()
    assert found.difference.count == 1


def test_a_value_that_is_no_number_is_found(unquantised, stored):
    def spoil(name, data):
        if name == "blk.0.attn_k.weight":
            data[5, :2] = np.array([np.nan], np.float16).view(np.uint8)

    b = stored(Type.Q4_K, spoil=spoil)
    assert list(wrong(unquantised, b)) == [Weight(Role.KEY, 0)]
    assert check_tensors(unquantised, b).warnings == ("Q4_K.gguf/blk.0.attn_k.weight: 256 values NaN or infinite",)


def test_blocks_of_any_size_give_the_same(unquantised, stored, monkeypatch):
    b = stored(Type.Q6_K, two_rows_exchanged)
    wanted = [(found.relative_error or 0.0, found.place) for found in compare_tensors(unquantised, b)]
    monkeypatch.setattr("llama_convert.verify.views.BLOCK_BYTES", 1 << 14)
    found = [(found.relative_error or 0.0, found.place) for found in compare_tensors(unquantised, b)]
    assert [place for _, place in found] == [place for _, place in wanted]
    for (error, _), (same, _) in zip(found, wanted, strict=True):
        assert error == pytest.approx(same, rel=1e-12)


def test_rows_never_trained_may_vanish(unquantised, stored):
    """Of the embedding: 1e-9 is below the steps of any type, and says nothing of the others."""

    def faint(weights):
        weights["tok_embeddings.weight"][100:110] *= 1e-9

    a = random_model("3", dim=256, heads=8, kv_heads=4, params={"multiple_of": 256})
    faint(a.weights)
    side = open_checkpoint(write_meta(a, unquantised.path.parent / "faint"), "3")
    assert not wrong(side, stored(Type.Q4_K, faint))


def test_diff_shows_errors(unquantised, stored, capsys):
    from llama_convert.cli import main

    side = [str(unquantised.path), str(stored(Type.Q4_K).path), "--llama-version=3"]
    main(["diff", *side])
    assert "16 weights no further away than quantisation explains: relative error up to 0." in capsys.readouterr().out
    side[1] = str(stored(Type.Q4_K, of_another_layer).path)
    assert main(["diff", *side]) == 1
    out = capsys.readouterr().out
    assert "1 of 21 weights differ" in out
    (row,) = [line for line in out.splitlines() if "more than q4_k explains" in line]
    assert row.split()[-4:] == ["1.42", "of", "0.14", "Q4_K.gguf/blk.0.attn_v.weight[0]"]


def test_no_type_explains_another_tensor():
    from llama_convert.verify.expectations import MEASURED

    assert all(expectation(name).relative_error < 1 for name in MEASURED)
