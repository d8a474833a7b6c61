"""Contract: models in step part where they differ; rounding is measured; weights are read ahead, in their order."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from threading import current_thread

import pytest
import torch

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.errors import UsageError
from llama_convert.verify import compare
from llama_convert.verify.ahead import read_ahead
from llama_convert.verify.devices import choose, exact
from llama_convert.verify.forward import FLOAT32, Operation, Run, load_as, logits_of
from llama_convert.verify.likeness import likeness
from llama_convert.verify.lockstep import compare as in_lockstep
from llama_convert.verify.lockstep import distance
from llama_convert.verify.prompts import DISTANCES, LONG, SHORT, consecutive, prompts
from tests.checkpoints import CASES
from tests.test_reference_agreement import MISTAKES, exchange, setting

BY_NAME = {case.name: case for case in CASES}


def scaled(name, factor=1.1):
    def mistake(weights, config, model):
        weights[name] = weights[name] * factor

    return mistake


PARTINGS = {
    "embedding": (scaled("model.embed_tokens.weight"), "embedding"),
    "eps": (setting("rms_norm_eps", 1e-6), "attention of layer 0"),
    "theta": (setting("rope_theta", 10000.0), "attention of layer 0"),
    "scaling": (MISTAKES["3.1-scaling-lost"], "attention of layer 0"),
    "last value": (scaled("model.layers.1.self_attn.v_proj.weight"), "attention of layer 1"),
    "first gate": (exchange("layers.0.mlp.gate_proj", "layers.0.mlp.up_proj"), "feed-forward of layer 0"),
    "last gate": (exchange("layers.1.mlp.gate_proj", "layers.1.mlp.up_proj"), "feed-forward of layer 1"),
    "final norm": (scaled("model.norm.weight"), "output head"),
    "head": (scaled("lm_head.weight"), "output head"),
}


@pytest.mark.parametrize("name", PARTINGS)
@pytest.mark.parametrize("case", ["3.1", "3.1-4shards"])
def test_two_part_at_the_first_place_where_they_differ(name, case, open_pair):
    mistake, place = PARTINGS[name]
    with exact():
        found = compare.compare_logits(*open_pair(BY_NAME[case], mistake), choose("cpu"))
    assert not found.passed
    assert str(found.parting) == place
    assert found.parting.difference > found.parting.gate


def test_a_lost_scaling_is_far_clearer_at_far_positions(open_pair):
    a, b = open_pair(BY_NAME["3.1"], MISTAKES["3.1-scaling-factor"])
    _, _, far = prompts(a, b)
    near = consecutive("near", far.tokens)

    def gap(prompt):
        return distance(*(logits_of(side, (prompt,))[0] for side in (a, b)))

    assert gap(far) > 20 * gap(near)
    assert far.positions[-1] == a.config.context - 1


def test_noise_is_measured_and_a_model_is_equal_to_itself(open_pair):
    a, _ = open_pair(BY_NAME["3.1"])
    sequences = prompts(a)
    found = in_lockstep(Run(a, sequences), Run(a, sequences))
    assert {gap.difference for gap in found.gaps} == {0.0}
    noises = {gap.place: gap.noise for gap in found.gaps}
    assert all((noise == 0) == (place.operation is Operation.EMBEDDING) for place, noise in noises.items())
    assert 1e-7 < found.noise < 5e-5


def test_a_device_that_rounds_more_than_it_says_is_not_believed(open_pair, monkeypatch):
    """A thousandth, as with TensorFloat-32, whatever the order: float64 decides then, and without it nothing does."""

    def cut(compute, device="cpu"):
        load = load_as(compute, device)
        if compute is torch.float64:
            return load
        return lambda weight, piece: load(weight, piece) * 1.001

    monkeypatch.setattr(compare, "load_as", cut)
    a, b = open_pair(BY_NAME["3.1"])
    with exact():
        assert compare.compare_logits(a, b, choose("cpu")).precision == "float64"
        result, _ = compare.check_logits(a, b, choose("cpu", "float32"))
    assert result.verdict.value == "not checked"
    assert result.gate > compare.CEILING
    assert "proves nothing" in result.figures


def test_bfloat16_is_told_but_proves_nothing(open_pair):
    with exact():
        right, _ = compare.check_logits(*open_pair(BY_NAME["3.1"]), choose("cpu", "bfloat16"))
        wrong, _ = compare.check_logits(*open_pair(BY_NAME["3.1"], MISTAKES["3.1-theta"]), choose("cpu", "bfloat16"))
    assert right.verdict.value == "not checked"
    assert wrong.verdict.value == "failed"


@pytest.mark.parametrize("name", ["2", "3.2", "3.1-4shards", "1-4shards", "3.1-16shards-kv-twice"])
def test_every_weight_of_a_layer_is_read_ahead(name, open_pair):
    for checkpoint in open_pair(BY_NAME[name]):
        threads = {}

        def load(weight, piece, threads=threads):
            threads.setdefault(weight, set()).add(current_thread().name)
            return FLOAT32(weight, piece)

        sequences = prompts(checkpoint)
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as executor:
            found = logits_of(checkpoint, sequences, read_ahead(load, checkpoint, executor))
        for ours, plain in zip(found, logits_of(checkpoint, sequences), strict=True):
            assert torch.equal(ours, plain)
        rows = threads.pop(Weight(Role.TOKENS))
        assert {name for names in threads.values() for name in names} == {"ahead_0"}
        assert "MainThread" in rows  # the prompts' own tokens, which no order foresees


def test_likeness_is_what_its_names_say():
    generator = torch.Generator().manual_seed(0)
    prompt = (consecutive("short", (1, 2)), consecutive("long", tuple(range(20))))
    a = torch.randn((22, 50), generator=generator)
    b = a + 0.1 * torch.randn((22, 50), generator=generator)
    found = likeness(a, b, prompt)
    targets = torch.arange(1, 20)
    assert found.perplexity_a == pytest.approx(math.exp(torch.nn.functional.cross_entropy(a[2:-1], targets)), rel=1e-5)
    assert found.perplexity_b == pytest.approx(math.exp(torch.nn.functional.cross_entropy(b[2:-1], targets)), rel=1e-5)
    divergences = torch.nn.functional.kl_div(
        b.log_softmax(-1), a.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert found.mean_divergence == pytest.approx(float(divergences.mean()), rel=1e-4)
    assert found.largest_divergence == pytest.approx(float(divergences.max()), rel=1e-4)
    assert found.same_first == float((a.argmax(-1) == b.argmax(-1)).double().mean())
    assert 0.5 < found.same_ten < 1
    same = likeness(a, a, prompt)
    assert (same.same_first, same.same_ten, same.largest_divergence, same.perplexity_ratio) == (1, 1, 0, 1)


def test_prompts_reach_the_end_of_the_context_and_stay_within(open_pair):
    a, _ = open_pair(BY_NAME["3.1"])
    short, text, far = prompts(a)
    assert (len(short.tokens), len(text.tokens)) == (SHORT, LONG)
    assert set(DISTANCES[:-1]) < set(far.positions)
    small, _ = open_pair(BY_NAME["2"])
    assert all(prompt.positions[-1] < small.config.context for prompt in prompts(small))
    assert prompts(a) == prompts(a)


def test_what_is_not_there_is_refused(monkeypatch):
    for device, precision, text in (("gpu", None, "gpu"), ("cpu", "float8", "float8"), ("mps", None, "mps")):
        with pytest.raises(UsageError, match=text):
            choose(device, precision)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert choose("mps").device == "mps"
    with pytest.raises(UsageError, match="float64"):
        choose("mps", "float64")


def test_exact_puts_back_what_it_changes():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    with exact():
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.is_inference_mode_enabled()
    assert torch.get_float32_matmul_precision() == "medium"
    torch.set_float32_matmul_precision(before)
