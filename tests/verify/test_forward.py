"""Contract: the reference forward pass gives Meta's, transformers' and a plain float64 implementation's logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llama_convert.convert.architecture import Rotary
from llama_convert.convert.errors import UsageError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify.compare import prompt
from llama_convert.verify.forward import FLOAT32, FLOAT64, hidden_states, kept, logits
from tests.checkpoints import CASES, random_model, with_kv_copies, write_meta
from tests.meta_reference import GATE, meta_logits, relative_difference, transformers_logits
from tests.verify.float64 import float64_logits

BY_NAME = {case.name: case for case in CASES}
LIKELY = [BY_NAME[name] for name in ("1", "2", "code", "3", "3.1", "3.2")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_metas_transformer_gives_the_same(case, meta_checkpoint):
    """Twice the gate: Meta's rounds its angles to float32, and is itself up to 5e-5 from float64."""
    checkpoint = open_checkpoint(meta_checkpoint(case), case.version)
    tokens = prompt(checkpoint)
    wanted = meta_logits(case.model(), tokens)
    assert relative_difference(wanted, logits(checkpoint, tokens)) <= 2 * GATE


@pytest.mark.parametrize("case", LIKELY, ids=str)
def test_transformers_gives_the_same(case, open_pair):
    _, checkpoint = open_pair(case)
    tokens = prompt(checkpoint)
    wanted = transformers_logits(checkpoint.path, tokens)
    assert relative_difference(wanted, logits(checkpoint, tokens)) <= 2 * GATE


@pytest.mark.parametrize("name", ["2", "code", "3", "3.1", "3.2", "3.1-4shards", "1-4shards", "3.1-16shards-kv-twice"])
def test_plain_float64_gives_the_same(name, open_pair):
    """Both conventions, at a precision at which nothing can be mistaken for rounding."""
    case = BY_NAME[name]
    tokens = prompt(open_pair(case)[0])[:48]
    wanted = torch.from_numpy(float64_logits(case.model(), tokens))
    for checkpoint in open_pair(case):
        assert relative_difference(wanted, logits(checkpoint, tokens, FLOAT64)) <= 1e-12


def test_control_the_other_rotary_order_is_far_off(open_pair):
    for checkpoint in open_pair(BY_NAME["3.1"]):
        tokens = prompt(checkpoint)
        other = Rotary.HALVES if checkpoint.rotary is Rotary.PAIRS else Rotary.PAIRS
        wrong = replace(checkpoint, rotary=other)
        assert relative_difference(logits(checkpoint, tokens), logits(wrong, tokens)) > 1


@pytest.mark.parametrize(
    ("change", "least"),
    [({"norm_eps": 1e-6}, 3e-3), ({"rope_theta": 10000.0}, 1), ({"rope_scaling": None}, 0.1)],
)
def test_control_the_config_counts(change, least, meta_checkpoint):
    checkpoint = open_checkpoint(meta_checkpoint(BY_NAME["3.1"]), "3.1")
    tokens = prompt(checkpoint)
    wrong = replace(checkpoint, config=replace(checkpoint.config, **change))
    assert relative_difference(logits(checkpoint, tokens), logits(wrong, tokens)) > least


@pytest.mark.parametrize("option", ["legacy", "shared_storage", "strided"])
def test_any_layout_of_the_file(option, tmp_path):
    model = random_model("3.2")
    plain = open_checkpoint(write_meta(model, tmp_path / "plain", shards=2, tokenizer=model.tokenizer))
    other = open_checkpoint(
        write_meta(model, tmp_path / "other", shards=2, tokenizer=model.tokenizer, **{option: True})
    )
    tokens = prompt(plain)
    assert torch.equal(logits(plain, tokens), logits(other, tokens))


def test_kv_copies_run_as_stored(meta_checkpoint):
    """Every one of the 16 shards has its own copy of a head: with another copy changed, logits change."""
    case = BY_NAME["3.1-16shards-kv-twice"]
    checkpoint = open_checkpoint(meta_checkpoint(case), "3.1")
    tokens = prompt(checkpoint)
    wanted = meta_logits(with_kv_copies(case.model(), 2), tokens)
    assert checkpoint.kv_copies == 2
    assert relative_difference(wanted, logits(checkpoint, tokens)) <= 2 * GATE


def test_positions_and_layers(meta_checkpoint):
    checkpoint = open_checkpoint(meta_checkpoint(BY_NAME["3"]))
    tokens = prompt(checkpoint)[:20]
    everything = logits(checkpoint, tokens)
    assert everything.shape == (20, checkpoint.config.vocab_size)
    torch.testing.assert_close(logits(checkpoint, tokens, kept(FLOAT32), positions=[-1, 3]), everything[[-1, 3]])
    states = list(hidden_states(checkpoint, tokens))
    assert [state.shape for state in states] == [(20, checkpoint.config.hidden_size)] * 3


@pytest.mark.parametrize("tokens", [[768], [-1], []])
def test_unknown_tokens_are_refused(tokens, meta_checkpoint):
    with pytest.raises(UsageError):
        logits(open_checkpoint(meta_checkpoint(BY_NAME["3"])), tokens)
