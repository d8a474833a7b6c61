"""What a model writes, held against libraries that nobody here wrote."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llama_convert.verify import load
from llama_convert.verify.forward import logits
from tests.checkpoints import CASES

LENGTH = 200
PROMPTS = ([5, 9, 200, 31, 7], [11], list(range(40, 73)))


def ids(case):
    return case.name


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_greedy_continuations_are_those_of_transformers(case, make_pair):
    """A batch of prompts of different lengths, both formats, 200 tokens each."""
    from transformers import LlamaForCausalLM

    a, b = make_pair(case)
    model = LlamaForCausalLM.from_pretrained(b, dtype=torch.float32, local_files_only=True)
    wanted = []
    for prompt in PROMPTS:
        found = model.generate(
            torch.tensor([prompt]), max_new_tokens=LENGTH, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        wanted.append(tuple(found[0, len(prompt) :].tolist()))
    for side, version in ((a, case.version), (b, None)):
        llama = replace(load(side, dtype="float32", llama_version=version), ends=frozenset())
        answers = llama.generate(PROMPTS, max_new_tokens=LENGTH)
        assert [answer.ids for answer in answers] == wanted


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_the_engine_and_the_reference_agree(case, make_pair):
    for side in make_pair(case):
        llama = load(side, dtype="float32")
        tokens = list(range(3, 67))
        wanted = logits(llama.checkpoint, tokens)
        assert (llama.logits(tokens) - wanted).abs().max() <= 5e-5 * (wanted.max() - wanted.min())
