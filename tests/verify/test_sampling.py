"""Contract: tokens are drawn with the very probabilities that transformers gives them, and by seeds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llama_convert.convert.errors import UsageError
from llama_convert.verify.sampling import GREEDY, Sampling, check_sampling, draw, generators, limited

SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.1),
    Sampling(temperature=3.2),
    Sampling(top_k=1),
    Sampling(top_k=7),
    Sampling(top_k=10_000),
    Sampling(top_p=1e-9),
    Sampling(top_p=0.05),
    Sampling(top_p=0.9),
    Sampling(top_p=1.0),
    Sampling(min_p=0.2),
    Sampling(min_p=0.0),
    Sampling(min_p=1.0),
    Sampling(temperature=0.32, top_k=20, top_p=0.8, min_p=0.05),
    Sampling(temperature=1.7, top_k=50, top_p=0.95),
    Sampling(temperature=10.0, top_p=0.5, min_p=0.3),
]


def logits():
    """Rows as a model gives them, flat ones, and ones in which many are equal."""
    source = torch.Generator().manual_seed(0)
    random = torch.randn(4, 300, generator=source) * torch.tensor([[0.1], [1.0], [4.0], [20.0]])
    tied = torch.randint(0, 4, (2, 300), generator=source).float()
    return torch.cat([random, tied, torch.zeros(1, 300)])


def processed(scores, sampling):
    """As transformers' generate puts its warpers together."""
    from transformers import (
        GenerationConfig,
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    config = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k or 0,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        min_p=sampling.min_p,
    )
    warpers = LogitsProcessorList()
    if config.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        warpers.append(TopKLogitsWarper(config.top_k))
    if config.top_p < 1.0:
        warpers.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        warpers.append(MinPLogitsWarper(config.min_p))
    return warpers(torch.zeros(len(scores), 1, dtype=torch.long), scores.clone())


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_probabilities_are_those_of_transformers(sampling):
    assert torch.equal(limited(logits(), sampling).softmax(-1), processed(logits(), sampling).softmax(-1))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Sampling(top_k=7), Sampling(top_k=8)),
        (Sampling(top_p=0.9), Sampling(top_p=0.8)),
        (Sampling(min_p=0.2), Sampling(min_p=0.1)),
        (Sampling(temperature=2.0, top_p=0.9), Sampling(temperature=2.1, top_p=0.9)),
    ],
)
def test_control_another_limit_gives_others(a, b):
    assert not torch.equal(limited(logits(), a).softmax(-1), processed(logits(), b).softmax(-1))


def test_transformers_puts_them_in_this_order():
    """What `processed` takes for granted."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    config = GenerationConfig(do_sample=True, temperature=2.0, top_k=3, top_p=0.5, min_p=0.1)
    found = model._get_logits_processor(generation_config=config, input_ids_seq_length=1)
    wanted = ["TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper"]
    assert [type(one).__name__ for one in found] == wanted


def test_what_is_drawn_has_those_probabilities():
    """100,000 draws of one row; each count within five standard deviations."""
    sampling = Sampling(temperature=1.5, top_k=5, seed=3)
    row = torch.tensor([[0.0, 3.0, 1.0, 2.5, -1.0, 2.0, 1.5]])
    odds = limited(row, sampling).softmax(-1)[0]
    (source,) = generators(sampling, 0, 1)
    count = 100_000
    drawn = torch.multinomial(odds, count, replacement=True, generator=source)
    one_by_one = [int(draw(row, sampling, [source])) for _ in range(2000)]
    for found, number in ((drawn, count), (torch.tensor(one_by_one), 2000)):
        shares = torch.bincount(found, minlength=7) / number
        assert ((shares - odds).abs() <= 5 * (odds * (1 - odds) / number).sqrt()).all()


def test_a_sequence_draws_the_same_whoever_is_beside_it():
    sampling = Sampling(seed=5)
    rows = logits()[:4]
    together = draw(rows, sampling, generators(sampling, 0, 4))
    apart = [draw(rows[i : i + 1], sampling, generators(sampling, i, 1)) for i in range(4)]
    assert together.tolist() == [int(one) for one in apart]
    assert draw(rows, sampling, generators(replace(sampling, seed=6), 0, 4)).tolist() != together.tolist()
    assert draw(rows, GREEDY, generators(GREEDY, 0, 4)).tolist() == rows.argmax(-1).tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"min_p": 1.5},
    ],
)
def test_impossible_values_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", ".")):
        check_sampling(Sampling(**wrong))


def test_all_that_is_wrong_is_told():
    with pytest.raises(UsageError) as raised:
        check_sampling(Sampling(temperature=-1.0, top_k=0, top_p=2.0, min_p=2.0))
    assert len(raised.value.problems) == 4
