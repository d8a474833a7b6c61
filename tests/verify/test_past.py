"""Contract: what has gone through a model once does not go through it again, and nothing that is written changes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
import torch

from llama_convert.convert import SpaceError
from llama_convert.verify import Past, Sampling, decoding, load, memory, past
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


class _Seen:
    """A matrix that notes how many tokens go through it."""

    def __init__(self, matrix, seen):
        self.matrix, self.seen = matrix, seen

    def times(self, vectors):
        self.seen.append(vectors.shape[1])
        return self.matrix.times(vectors)


def endless(folder, version=None):
    return replace(load(folder, dtype="float32", llama_version=version), ends=frozenset())


@pytest.fixture
def llama(make_pair):
    return endless(make_pair(CASE)[0], CASE.version)


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


def test_the_last_layer_goes_over_the_last_token_alone(llama):
    """All before it go over the whole prompt."""
    seen: list[int] = []
    layers = [replace(layer, down=_Seen(layer.down, seen)) for layer in llama.model.layers]
    looked_at = replace(llama, model=replace(llama.model, layers=tuple(layers)))
    wanted = llama.generate([PROMPTS[0]], max_new_tokens=1)[0].ids
    assert looked_at.generate([PROMPTS[0]], max_new_tokens=1)[0].ids == wanted
    assert seen == [*[len(PROMPTS[0])] * (len(layers) - 1), 1]


def test_different_prompts_are_not_copied(llama, monkeypatch):
    monkeypatch.setattr(past, "spread", None)
    assert len({*drawn(llama, PROMPTS)}) == 3


def test_a_program_is_made_for_each_size_of_a_cache(llama, monkeypatch):
    """Left to itself torch gives up at the ninth; here at the third."""
    traced = torch.compile(decoding._last_logits, backend="eager", fullgraph=True, dynamic=False)
    monkeypatch.setattr(decoding, "_program", lambda device: traced)
    config = replace(llama.model.config, layers=1)
    llama = replace(llama, model=replace(llama.model, config=config, layers=llama.model.layers[:1]))
    compiled = replace(llama, compiled=True)
    # Not by monkeypatch: torch would forget the setting when that is undone.
    with torch._dynamo.config.patch(recompile_limit=2):
        for length in range(2, 6):
            prompt = list(range(3, 3 + length))
            wanted = llama.generate([prompt], max_new_tokens=3)
            assert compiled.generate([prompt], max_new_tokens=3)[0].ids == wanted[0].ids
    monkeypatch.setattr(decoding, "_SIZES", 2)
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        compiled.generate([[3] * 20], max_new_tokens=3)


def turns(llama, known, count=5):
    """The ids of the answers in a conversation; each prompt is what was said before and four ids more."""
    said, answers = [], []
    for turn in range(count):
        said += range(50 * turn + 3, 50 * turn + 7)
        (answer,) = llama.generate([said], max_new_tokens=20, past=known)
        said += answer.ids
        answers.append(answer.ids)
    return answers


@pytest.mark.parametrize("name", ["1", "3.1", "3.2", "3.1-16shards-kv-twice"])
def test_a_conversation_goes_on_as_if_computed_from_nothing(name, make_pair):
    """Pairs and halves, in one file and in shards; each turn runs the last token of the answer, and what is new."""
    case = next(case for case in CASES if case.name == name)
    meta, hf = make_pair(case)
    for llama in (endless(meta, case.version), endless(hf)):
        counted, shapes = counting(llama)
        assert turns(counted, Past()) == turns(llama, None)
        assert [length for _, length in shapes if length > 1] == [4, 5, 5, 5, 5]


def test_control_what_is_out_of_date_would_be_seen(llama, monkeypatch):
    """Another beginning of the same length, taken for the same."""
    prompt = list(range(3, 40))
    other = [9, 8, 7, *prompt[3:]]
    (wanted,) = llama.generate([other], max_new_tokens=20)
    for right in (True, False):
        known = Past()
        llama.generate([prompt], max_new_tokens=20, past=known)
        assert (llama.generate([other], max_new_tokens=20, past=known)[0].ids == wanted.ids) is right
        monkeypatch.setattr(Past, "_begun", lambda self, model, rows: len(rows[0]) - 1)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_asked_next_the_answer_is_the_same(llama, seed):
    """Batches of every size, prompts that share beginnings of every length, several answers to some."""
    source, known, seen = random.Random(seed), Past(), [list(range(3, 30))]
    for number in range(25):
        prompts = []
        for _ in range(source.choice([1, 1, 1, 2, 3])):
            before = source.choice(seen[-3:])
            prompts.append(
                before[: source.randint(1, len(before))] + source.choices(range(3, 500), k=source.randint(0, 6))
            )
        options = {
            "max_new_tokens": source.randint(1, 12),
            "num_return_sequences": source.choice([1, 1, 3]),
            "sampling": Sampling(seed=number),
        }
        found = llama.generate(prompts, **options, past=known)
        assert [one.ids for one in found] == [one.ids for one in llama.generate(prompts, **options)]
        seen.append([*found[0].prompt, *found[0].ids])


def test_an_interrupted_turn_leaves_nothing_wrong_behind(llama):
    """Told a piece, and in the middle of the model: the embedding, or the last layer's last matrix."""
    known, prompt = Past(), list(range(3, 40))
    llama.generate([prompt], max_new_tokens=20, past=known)

    class Stopping:
        def __init__(self, inner, after):
            self.inner, self.left = inner, after

        def times(self, vectors):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return self.inner.times(vectors)

    other = [*prompt[:20], 9, 8, 7, 6]
    for after in (1, 2, 5):
        down = Stopping(llama.model.layers[-1].down, after)
        layers = (*llama.model.layers[:-1], replace(llama.model.layers[-1], down=down))
        # The very model, of which a layer fails: the past knows its model.
        object.__setattr__(llama.model, "layers", layers)
        with pytest.raises(KeyboardInterrupt):
            llama.generate([other], max_new_tokens=20, past=known)
        object.__setattr__(llama.model, "layers", (*layers[:-1], replace(layers[-1], down=down.inner)))
        for asked in (prompt, other):
            wanted = llama.generate([asked], max_new_tokens=20)[0].ids
            assert llama.generate([asked], max_new_tokens=20, past=known)[0].ids == wanted


def test_the_past_of_another_model_is_none(llama, make_pair):
    known, prompt = Past(), list(range(3, 40))
    llama.generate([prompt], past=known, max_new_tokens=20)
    other = endless(make_pair(next(case for case in CASES if case.name == "3"))[0], "3")
    wanted = other.generate([prompt], max_new_tokens=20)[0].ids
    assert other.generate([prompt], past=known, max_new_tokens=20)[0].ids == wanted


def test_compiled_steps_do_not_look_at_what_is_behind(llama, monkeypatch):
    """They go over the whole cache, of which much is left from a longer text."""
    monkeypatch.setattr(decoding, "_program", lambda device: decoding._last_logits)
    compiled, known, prompt = replace(llama, compiled=True), Past(), list(range(3, 60))
    compiled.generate([prompt], max_new_tokens=40, past=known)
    short = [*prompt[:4], 77]
    wanted = llama.generate([short], max_new_tokens=20)[0].ids
    assert compiled.generate([short], max_new_tokens=20, past=known)[0].ids == wanted
    monkeypatch.setattr(decoding, "_visible", lambda pads, places, span: torch.ones(1, 1, len(places), span).bool())
    assert compiled.generate([short], max_new_tokens=20, past=known)[0].ids != wanted


def test_room_grows_twofold_up_to_the_context(llama):
    config = replace(llama.model.config, context=150)
    small, known, rooms = replace(llama, model=replace(llama.model, config=config)), Past(), []
    for length in (10, 12, 30, 60, 140):
        answers = [small.generate([list(range(length))], max_new_tokens=20, past=one)[0] for one in (known, None)]
        assert answers[0].ids == answers[1].ids
        rooms.append(known._cache.capacity)
    assert rooms == [30, 60, 60, 120, 150]


def test_where_memory_is_short_room_is_what_is_needed(llama, monkeypatch):
    known, prompt = Past(), list(range(20))
    wanted = llama.generate([prompt], max_new_tokens=20)[0].ids
    llama.generate([prompt[:10]], max_new_tokens=20, past=known)
    place = known._cache.nbytes // 30
    # Beside the 30 places, which are given back for new ones.
    monkeypatch.setattr(memory, "available", lambda device: 20 * place)
    assert llama.generate([prompt], max_new_tokens=20, past=known)[0].ids == wanted
    assert known._cache.capacity == 40
    with pytest.raises(SpaceError, match="Keys and values of 61 tokens, 1 sequence, take"):
        llama.generate([list(range(41))], max_new_tokens=20, past=known)
    assert llama.generate([prompt], max_new_tokens=20, past=known)[0].ids == wanted
