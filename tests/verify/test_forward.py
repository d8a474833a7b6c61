"""Contract: the reference forward pass gives Meta's, transformers' and a plain float64 implementation's logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llama_convert.convert.architecture import Rotary
from llama_convert.convert.errors import UsageError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify.forward import FLOAT32, FLOAT64, kept, logits, logits_of
from llama_convert.verify.prompts import Prompt, consecutive, prompts
from tests.checkpoints import CASES, random_model, with_kv_copies, write_meta
from tests.meta_reference import (
    GATE,
    exact_angles,
    meta_logits,
    meta_logits_at,
    random_tokens,
    relative_difference,
    transformers_logits,
    transformers_logits_at,
)
from tests.verify.float64 import float64_logits

BY_NAME = {case.name: case for case in CASES}
POSITIONS = 256
LIKELY = [BY_NAME[name] for name in ("1", "2", "code", "3", "3.1", "3.2")]


def some_tokens(checkpoint, positions=POSITIONS):
    return random_tokens(checkpoint.config.vocab_size, positions).tolist()


def far_prompt(checkpoint):
    """Every distance between 0 and 8,191, with 64 tokens."""
    places = (*range(16), *range(64, 80), *range(1024, 1040), *range(8176, 8192))
    return Prompt(name="far", tokens=tuple(some_tokens(checkpoint, len(places))), positions=places)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_metas_transformer_gives_the_same(case, meta_checkpoint):
    checkpoint = open_checkpoint(meta_checkpoint(case), case.version)
    tokens = some_tokens(checkpoint)
    wanted = meta_logits(case.model(), tokens)
    assert relative_difference(wanted, logits(checkpoint, tokens)) <= GATE


@pytest.mark.parametrize("case", LIKELY, ids=str)
def test_transformers_gives_the_same(case, open_pair):
    _, checkpoint = open_pair(case)
    tokens = some_tokens(checkpoint)
    wanted = transformers_logits(checkpoint.path, tokens)
    assert relative_difference(wanted, logits(checkpoint, tokens)) <= GATE


@pytest.mark.parametrize("case", LIKELY, ids=str)
def test_both_give_the_same_at_8192_positions(case, open_pair):
    """With angles that they do not round: rounded, both are 1e-3 from float64, and from this forward pass."""
    meta, checkpoint = open_pair(case)
    prompt = far_prompt(checkpoint)
    of_meta = meta_logits_at(case.model(), prompt.tokens, prompt.positions)
    angles = exact_angles(case.model(), prompt.positions)
    of_transformers = transformers_logits_at(checkpoint.path, prompt.tokens, angles)
    assert relative_difference(of_meta, logits_of(meta, (prompt,))[0]) <= GATE
    assert relative_difference(of_transformers, logits_of(checkpoint, (prompt,))[0]) <= GATE
    near = consecutive("near", prompt.tokens)
    assert relative_difference(of_meta, logits_of(meta, (near,))[0]) > 0.1


@pytest.mark.parametrize("kv_heads", [1, 3, 12])
@pytest.mark.parametrize("version", ["2", "3.1"])
def test_any_number_of_kv_heads(version, kv_heads, tmp_path):
    model = random_model(version, kv_heads=kv_heads)
    checkpoint = open_checkpoint(write_meta(model, tmp_path, tokenizer=model.tokenizer), version)
    tokens = some_tokens(checkpoint)
    wanted = meta_logits_at(model, tokens, range(POSITIONS))
    assert relative_difference(wanted, logits(checkpoint, tokens)) <= GATE / 2


@pytest.mark.parametrize("name", ["2", "code", "3", "3.1", "3.2", "3.1-4shards", "1-4shards", "3.1-16shards-kv-twice"])
def test_plain_float64_gives_the_same(name, open_pair):
    """Both conventions, near and far, at a precision at which nothing can be mistaken for rounding."""
    case = BY_NAME[name]
    prompt = far_prompt(open_pair(case)[0])
    prompt = Prompt(name="far", tokens=prompt.tokens[::2], positions=prompt.positions[::2])
    near = consecutive("near", prompt.tokens)
    for one in (near, prompt):
        wanted = torch.from_numpy(float64_logits(case.model(), one.tokens, one.positions))
        for checkpoint in open_pair(case):
            assert relative_difference(wanted, logits_of(checkpoint, (one,), FLOAT64)[0]) <= 1e-11


def test_prompts_do_not_see_each_other(meta_checkpoint):
    checkpoint = open_checkpoint(meta_checkpoint(BY_NAME["3.1"]), "3.1")
    several = prompts(checkpoint)
    together = logits_of(checkpoint, several, FLOAT64)
    for prompt, found in zip(several, together, strict=True):
        torch.testing.assert_close(logits_of(checkpoint, (prompt,), FLOAT64)[0], found, rtol=0, atol=1e-12)


def test_control_the_other_rotary_order_is_far_off(open_pair):
    for checkpoint in open_pair(BY_NAME["3.1"]):
        tokens = some_tokens(checkpoint)
        other = Rotary.HALVES if checkpoint.rotary is Rotary.PAIRS else Rotary.PAIRS
        wrong = replace(checkpoint, rotary=other)
        assert relative_difference(logits(checkpoint, tokens), logits(wrong, tokens)) > 1


@pytest.mark.parametrize(
    ("change", "least"),
    [({"norm_eps": 1e-6}, 3e-3), ({"rope_theta": 10000.0}, 1), ({"rope_scaling": None}, 0.1)],
)
def test_control_the_config_counts(change, least, meta_checkpoint):
    checkpoint = open_checkpoint(meta_checkpoint(BY_NAME["3.1"]), "3.1")
    tokens = some_tokens(checkpoint)
    wrong = replace(checkpoint, config=replace(checkpoint.config, **change))
    assert relative_difference(logits(checkpoint, tokens), logits(wrong, tokens)) > least


@pytest.mark.parametrize("option", ["legacy", "shared_storage", "strided"])
def test_any_layout_of_the_file(option, tmp_path):
    model = random_model("3.2")
    plain = open_checkpoint(write_meta(model, tmp_path / "plain", shards=2, tokenizer=model.tokenizer))
    other = open_checkpoint(
        write_meta(model, tmp_path / "other", shards=2, tokenizer=model.tokenizer, **{option: True})
    )
    tokens = some_tokens(plain)
    assert torch.equal(logits(plain, tokens), logits(other, tokens))


def test_kv_copies_run_as_stored(meta_checkpoint):
    """Every one of the 16 shards has its own copy of a head: with another copy changed, logits change."""
    case = BY_NAME["3.1-16shards-kv-twice"]
    checkpoint = open_checkpoint(meta_checkpoint(case), "3.1")
    tokens = some_tokens(checkpoint)
    wanted = meta_logits(with_kv_copies(case.model(), 2), tokens)
    assert checkpoint.kv_copies == 2
    assert relative_difference(wanted, logits(checkpoint, tokens)) <= GATE


def test_positions_and_layers(meta_checkpoint):
    checkpoint = open_checkpoint(meta_checkpoint(BY_NAME["3"]))
    tokens = some_tokens(checkpoint)[:20]
    everything = logits(checkpoint, tokens)
    assert everything.shape == (20, checkpoint.config.vocab_size)
    torch.testing.assert_close(logits(checkpoint, tokens, kept(FLOAT32), at=[-1, 3]), everything[[-1, 3]])


@pytest.mark.parametrize("tokens", [[768], [-1], []])
def test_unknown_tokens_are_refused(tokens, meta_checkpoint):
    with pytest.raises(UsageError):
        logits(open_checkpoint(meta_checkpoint(BY_NAME["3"])), tokens)
