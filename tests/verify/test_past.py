"""Contract: what has gone through a model once does not go through it again, and nothing that is written changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from llama_convert.verify import Sampling, decoding, load, past
from tests.checkpoints import CASES

CASE = next(case for case in CASES if case.name == "3.1")
PROMPTS = ([5, 9, 200, 31, 7], [11], list(range(40, 73)))


@dataclass
class Counting:
    """An embedding, and the shapes of what was looked up in it: all that goes through the model."""

    inner: object
    counted: list[tuple[int, ...]] = field(default_factory=list)

    def rows(self, numbers):
        self.counted.append(tuple(numbers.shape))
        return self.inner.rows(numbers)


def counting(llama):
    """The same, and the list to which (sequences, tokens of each) is added whenever some go through its model."""
    table = Counting(llama.model.tokens)
    return replace(llama, model=replace(llama.model, tokens=table)), table.counted


@pytest.fixture
def llama(make_pair):
    meta, _ = make_pair(CASE)
    return replace(load(meta, dtype="float32", llama_version=CASE.version), ends=frozenset())


def drawn(llama, prompts, seed=1, **options):
    answers = llama.generate(prompts, max_new_tokens=12, sampling=Sampling(seed=seed), **options)
    return [answer.ids for answer in answers]


def alone(llama, prompts, seed, count):
    """The same answers, each prompt by itself with its own seed."""
    numbered = [prompt for prompt in prompts for _ in range(count)]
    return [drawn(llama, [prompt], seed + number)[0] for number, prompt in enumerate(numbered)]


@pytest.mark.parametrize("seed", [1, 50])
def test_answers_to_one_prompt_are_those_of_the_prompt_alone(llama, seed):
    """Among other prompts of other lengths, and one that is there twice."""
    prompts = [*PROMPTS, PROMPTS[0]]
    assert drawn(llama, prompts, seed, num_return_sequences=3, batch_size=12) == alone(llama, prompts, seed, 3)


def test_control_sequences_without_what_was_read_write_others(llama, monkeypatch):
    monkeypatch.setattr(past, "spread", lambda *_: None)
    wanted = alone(llama, PROMPTS, 1, 3)
    found = drawn(llama, PROMPTS, num_return_sequences=3, batch_size=9)
    assert found[:1] == wanted[:1]
    assert sum(left != right for left, right in zip(found, wanted, strict=True)) >= 6


def test_a_prompt_goes_through_the_model_once(llama):
    counted, shapes = counting(llama)
    drawn(counted, PROMPTS, num_return_sequences=3, batch_size=9)
    assert shapes == [(3, 33), *[(9, 1)] * 11]


def test_different_prompts_are_not_copied(llama, monkeypatch):
    monkeypatch.setattr(past, "spread", None)
    assert len({*drawn(llama, PROMPTS)}) == 3


def test_a_program_is_made_for_each_size_of_a_cache(llama, monkeypatch):
    """Left to itself torch gives up at the ninth."""
    traced = torch.compile(decoding._last_logits, backend="eager", fullgraph=True, dynamic=False)
    monkeypatch.setattr(decoding, "_program", lambda device: traced)
    compiled = replace(llama, compiled=True)
    for length in range(2, 12):
        prompt = list(range(3, 3 + length))
        wanted = llama.generate([prompt], max_new_tokens=3)
        assert compiled.generate([prompt], max_new_tokens=3)[0].ids == wanted[0].ids
    monkeypatch.setattr(decoding, "_SIZES", 8)
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        compiled.generate([[3] * 20], max_new_tokens=3)
