"""What a model writes, held against libraries that nobody here wrote."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llama_convert.convert import UsageError
from llama_convert.verify import Sampling, load
from llama_convert.verify.forward import logits
from tests.book_reference import book_classes, book_config, book_state
from tests.checkpoints import CASES
from tests.meta_reference import meta_transformer

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


def alone(case, make_pair):
    """The model in Meta's format, without ends, in float32."""
    meta, _ = make_pair(case)
    return replace(load(meta, dtype="float32", llama_version=case.version), ends=frozenset())


# The book has models of Llama 2 and 3; Llama 1 and Code Llama are the same classes with other numbers.
BOOK = [case for case in CASES if case.name in ("2", "3", "3.1", "3.2", "3.1-4shards")]
META = [case for case in CASES if case.name in ("1", "2", "code", "3", "3.1", "3.2")]


@pytest.mark.parametrize("case", BOOK, ids=ids)
def test_greedy_continuations_are_those_of_the_book(case, make_pair):
    """By its own loop, with its cache of keys and values, and computing every position anew."""
    from llms_from_scratch.kv_cache.generate import generate_text_simple

    reference, prompt = case.model(), list(PROMPTS[0])
    model = book_classes()["cached"](book_config(reference, context=512))
    model.load_state_dict(book_state(reference), strict=True)
    wanted = set()
    for cached in (True, False):
        found = generate_text_simple(model, torch.tensor([prompt]), 64, context_size=512, use_cache=cached)
        wanted.add(tuple(found[0, len(prompt) :].tolist()))
    (answer,) = alone(case, make_pair).generate([prompt], max_new_tokens=64)
    assert {answer.ids} == wanted


@pytest.mark.parametrize("case", META, ids=ids)
def test_greedy_continuations_are_those_of_meta(case, make_pair):
    """By Meta's Transformer with its own cache, one token at a time."""
    prompt, wanted = list(PROMPTS[2]), []
    transformer = meta_transformer(case.model(), len(prompt) + LENGTH)
    tokens, start = torch.tensor([prompt]), 0
    while len(wanted) < LENGTH:
        wanted.append(int(transformer(tokens, start)[0, -1].argmax()))
        tokens, start = torch.tensor([[wanted[-1]]]), start + tokens.shape[1]
    (answer,) = alone(case, make_pair).generate([prompt], max_new_tokens=LENGTH)
    assert answer.ids == tuple(wanted)


CASE = next(case for case in CASES if case.name == "3.1")


def test_what_a_seed_draws_does_not_depend_on_the_batch(make_pair):
    llama = alone(CASE, make_pair)

    def drawn(batch_size, seed=1):
        sampling = Sampling(temperature=0.8, top_k=40, seed=seed)
        answers = llama.generate(
            PROMPTS, max_new_tokens=12, sampling=sampling, num_return_sequences=3, batch_size=batch_size
        )
        return [answer.ids for answer in answers]

    once = drawn(9)
    assert once == drawn(1) == drawn(4)
    assert len({*once}) == 9
    assert once != drawn(9, seed=100)


def test_a_seed_is_needed_to_draw_the_same(make_pair):
    llama = alone(CASE, make_pair)
    drawn = {llama.generate([[5]], max_new_tokens=12, sampling=Sampling())[0].ids for _ in range(3)}
    assert len(drawn) == 3


def test_an_end_token_ends_one_answer_and_no_other(make_pair):
    llama = alone(CASE, make_pair)
    free = llama.generate(PROMPTS, max_new_tokens=30)
    end = free[0].ids[7]
    ended = replace(llama, ends=frozenset({end})).generate(PROMPTS, max_new_tokens=30)
    for before, after in zip(free, ended, strict=True):
        place = before.ids.index(end) + 1 if end in before.ids else 30
        assert after.ids == before.ids[:place]
        assert after.ended == ("end token" if end in before.ids else "length")
    assert len(ended[0].ids) <= 8


def test_a_stream_is_the_answer(make_pair):
    llama = alone(CASE, make_pair)
    sampling = Sampling(seed=2)
    (answer,) = llama.generate([PROMPTS[0]], max_new_tokens=40, sampling=sampling)
    pieces = []
    for piece in llama.stream(PROMPTS[0], max_new_tokens=40, sampling=sampling):
        pieces.append(piece)
        assert not torch.is_inference_mode_enabled()
    assert len(pieces) > 20
    assert "".join(pieces) == answer.text


def test_the_context_is_the_end(make_pair):
    llama = alone(CASE, make_pair)
    small = replace(llama, model=replace(llama.model, config=replace(llama.model.config, context=40)))
    (answer,) = small.generate([PROMPTS[2]], max_new_tokens=100)
    assert (len(answer.ids), answer.ended) == (40 - len(PROMPTS[2]), "context")
    assert answer.ids == llama.generate([PROMPTS[2]], max_new_tokens=100)[0].ids[: len(answer.ids)]
    with pytest.raises(UsageError) as raised:
        small.generate([list(range(40)), [], [10**6, 3], [3]])
    assert [problem.partition(":")[0] for problem in raised.value.problems] == ["prompt 1", "prompt 2", "prompt 3"]


def test_requests_that_make_no_sense_are_refused(make_pair):
    llama = alone(CASE, make_pair)
    with pytest.raises(UsageError) as raised:
        llama.generate([[5]], max_new_tokens=0, num_return_sequences=2, batch_size=0, stops=[""])
    assert len(raised.value.problems) == 4


def test_compiled_steps_write_the_same(make_pair):
    """Prompts of unequal length, of which the compiled step sees all of the cache."""
    llama = alone(CASE, make_pair)
    wanted = llama.generate(PROMPTS, max_new_tokens=30)
    compiled = replace(llama, compiled=True).generate(PROMPTS, max_new_tokens=30)
    assert [answer.ids for answer in compiled] == [answer.ids for answer in wanted]
