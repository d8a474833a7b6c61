"""Contract: the tensors level sees every single bit, says where it is, and passes right conversions."""

from __future__ import annotations

import pytest
import torch

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify.report import Verdict
from llama_convert.verify.tensors import check_tensors, compare_tensors
from llama_convert.verify.views import stored_rows
from tests.checkpoints import CASES
from tests.test_reference_agreement import no_permutation

BY_NAME = {case.name: case for case in CASES}
# One tensor of each kind, and an element of it that no block starts with.
TENSORS = {
    "model.embed_tokens.weight": (Weight(Role.TOKENS), [700, 3]),
    "model.layers.0.input_layernorm.weight": (Weight(Role.ATTENTION_NORM, 0), [5]),
    "model.layers.1.self_attn.q_proj.weight": (Weight(Role.QUERY, 1), [100, 191]),
    "model.layers.0.self_attn.k_proj.weight": (Weight(Role.KEY, 0), [33, 0]),
    "model.layers.0.self_attn.v_proj.weight": (Weight(Role.VALUE, 0), [63, 1]),
    "model.layers.1.self_attn.o_proj.weight": (Weight(Role.ATTENTION_OUT, 1), [1, 150]),
    "model.layers.1.post_attention_layernorm.weight": (Weight(Role.FFN_NORM, 1), [191]),
    "model.layers.0.mlp.gate_proj.weight": (Weight(Role.GATE, 0), [9, 9]),
    "model.layers.0.mlp.up_proj.weight": (Weight(Role.UP, 0), [10, 10]),
    "model.layers.1.mlp.down_proj.weight": (Weight(Role.DOWN, 1), [11, 500]),
    "model.norm.weight": (Weight(Role.FINAL_NORM), [0]),
    "lm_head.weight": (Weight(Role.HEAD), [767, 191]),
}


def changed(name, change):
    def mistake(weights, config, model):
        weights[name] = change(weights[name].clone())

    return mistake


def flipped(index):
    def flip(weight):
        weight.view(torch.int16)[tuple(index)] ^= 1
        return weight

    return flip


def differing(a, b):
    return [result for result in compare_tensors(a, b) if not result.right]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_right_conversion_is_equal(case, open_pair):
    a, b = open_pair(case)
    for sides in ((a, b), (b, a), (a, None), (b, None)):
        result = check_tensors(*sides)
        assert (result.verdict, result.findings, result.warnings) == (Verdict.PASSED, (), ())


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("case", ["3", "3.1-4shards"])
def test_one_flipped_bit_is_found_and_located(name, case, open_pair):
    weight, index = TENSORS[name]
    a, b = open_pair(BY_NAME[case], changed(name, flipped(index)))
    (found,) = differing(a, b)
    assert (found.weight, found.difference.count) == (weight, 1)
    assert found.difference.place == f"huggingface/{name}{index}"
    assert 0 < found.difference.largest < 0.1


def test_the_sign_of_a_zero_counts(open_pair):
    a, b = open_pair(BY_NAME["3"], changed("model.norm.weight", lambda weight: weight.mul_(0)))
    (found,) = differing(a, b)
    assert found.difference.count == a.config.hidden_size


def test_two_rows_exchanged_are_found(open_pair):
    def exchange(weight):
        weight[[30, 31]] = weight[[31, 30]]
        return weight

    a, b = open_pair(BY_NAME["2"], changed("model.layers.1.mlp.up_proj.weight", exchange))
    (found,) = differing(a, b)
    assert found.weight == Weight(Role.UP, 1)
    assert found.difference.place.endswith("[30, 0]")


def test_a_missing_permutation_is_found_in_queries_and_keys_only(open_pair):
    a, b = open_pair(BY_NAME["3.1"], no_permutation)
    assert {found.weight.role for found in differing(a, b)} == {Role.QUERY, Role.KEY}


def test_a_copy_that_is_none_is_found(open_pair):
    """The 16-way files: the second copy of a kv head changed behind the back of the checkpoint's reader."""
    a, b = open_pair(BY_NAME["3.1-16shards-kv-twice"])
    for side in ((a, b), (a, None), (b, a)):
        assert not differing(*side)
    weight = Weight(Role.VALUE, 1)
    slices = a.parts[weight].pieces
    a.parts[weight] = type(a.parts[weight])((*slices[:3], slices[4], *slices[4:]), 0)
    (found,) = differing(a, None)
    assert found.weight == weight
    assert len(differing(a, b)) == len(differing(b, a)) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_cast_is_held_against_the_rounded_values(dtype, open_pair):
    def cast(weights, config, model):
        weights.update({name: weight.to(dtype) for name, weight in weights.items()})

    def cast_badly(weights, config, model):
        cast(weights, config, model)
        weights["model.norm.weight"][3] *= 1.01

    case = BY_NAME["3"]
    results = list(compare_tensors(*open_pair(case, cast)))
    assert all(result.right and result.cast for result in results)
    (found,) = differing(*open_pair(case, cast_badly))
    assert found.difference.place == "huggingface/model.norm.weight[3]"


def test_a_tied_head_is_held_against_the_embedding(open_pair):
    def wrong_embedding(weights, config, model):
        weights["model.embed_tokens.weight"][5] = 0

    case = BY_NAME["3.2-tied-by-value"]
    assert Weight(Role.HEAD) in [result.weight for result in compare_tensors(*open_pair(case))]
    found = [result.weight for result in differing(*open_pair(case, wrong_embedding))]
    assert found == [Weight(Role.TOKENS), Weight(Role.HEAD)]


def test_a_head_lost_for_the_embedding_is_found(open_pair):
    def lost(weights, config, model):
        del weights["lm_head.weight"]
        config["tie_word_embeddings"] = True

    (found,) = differing(*open_pair(BY_NAME["3.2-untied"], lost))
    assert found.weight == Weight(Role.HEAD)


def test_layers_that_only_one_side_has_are_found(open_pair):
    def lost(weights, config, model):
        config["num_hidden_layers"] = 1
        for name in [name for name in weights if ".layers.1." in name]:
            del weights[name]

    a, b = open_pair(BY_NAME["3"], lost)
    for sides in ((a, b), (b, a)):
        found = differing(*sides)
        assert len(found) == 9
        assert all(result.problem == f"not in {b.path}" for result in found)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_no_numbers_are_named(value, open_pair):
    def spoil(weight):
        weight[2, 2] = value
        return weight

    a, b = open_pair(BY_NAME["3"], changed("lm_head.weight", spoil))
    result = check_tensors(a, b)
    assert result.warnings == ("huggingface/lm_head.weight: 1 value NaN or infinite",)
    assert result.verdict is Verdict.FAILED
    assert check_tensors(b, None).warnings == result.warnings


@pytest.mark.parametrize("case", ["3", "1", "3.1-16shards-kv-twice"])
def test_the_map_of_rows_is_a_bijection(case, open_pair):
    """Over all copies together, every stored row is hit exactly once."""
    for checkpoint in open_pair(BY_NAME[case]):
        for role in (Role.QUERY, Role.KEY, Role.VALUE, Role.GATE):
            copies = checkpoint.kv_copies if role in (Role.KEY, Role.VALUE) else 1
            rows = torch.arange(checkpoint.config.shape(role)[0])
            stored = torch.cat([stored_rows(checkpoint, role, rows, copy) for copy in range(copies)])
            assert stored.sort().values.tolist() == list(range(copies * len(rows)))


def test_blocks_of_any_size_give_the_same(open_pair, monkeypatch):
    monkeypatch.setattr("llama_convert.verify.views.BLOCK_BYTES", 1)
    name = "model.layers.1.self_attn.q_proj.weight"
    a, b = open_pair(BY_NAME["3.1-4shards"], changed(name, flipped([100, 191])))
    (found,) = differing(a, b)
    assert found.difference.place == f"huggingface/{name}[100, 191]"


def test_a_file_that_shrank_is_an_error(open_pair):
    from llama_convert.convert.errors import CheckpointError

    a, b = open_pair(BY_NAME["3"])
    path = b.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="ended at byte"):
        check_tensors(a, b)
    with pytest.raises(CheckpointError):
        open_checkpoint(b.path)
