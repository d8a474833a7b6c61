"""What a model computes once its vocabulary has changed: the same for old tokens, never a new one first."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from llama_convert.convert import convert_checkpoint, open_checkpoint, pad_change, plan_conversion, resize_change
from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.expressions import Stored, resized
from llama_convert.convert.vocabulary import Init
from llama_convert.verify.forward import FLOAT64, logits_of
from llama_convert.verify.prompts import Prompt
from tests.checkpoints import random_model, write_meta
from tests.convert.rows import HEAD, MEAN, TOKENS, ZERO, content, rows_of

pytestmark = pytest.mark.usefixtures("in_one_process")


@pytest.fixture(params=["2", "3", "3.1", "3.2"])
def before_and_after(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A Hugging Face folder of the version, and the same with a new pad token; in float32."""
    model = random_model(request.param, dtype=torch.float32)
    folder = write_meta(model, tmp_path / "meta", tokenizer=model.tokenizer)
    convert_checkpoint(plan_conversion(folder, llama_version=request.param), tmp_path / "before")
    convert_checkpoint(
        plan_conversion(tmp_path / "before", change=partial(pad_change, token="<pad>")), tmp_path / "after"
    )
    return tmp_path / "before", tmp_path / "after"


def random_prompts(size: int) -> tuple[Prompt, ...]:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(0, size, (64,), generator=generator).tolist() for _ in range(4)]
    return tuple(Prompt(name=str(n), tokens=tuple(found), positions=tuple(range(64))) for n, found in enumerate(ids))


def test_logits_of_old_tokens_keep_every_bit(before_and_after: tuple[Path, Path]) -> None:
    before, after = map(open_checkpoint, before_and_after)
    size = before.config.vocab_size
    prompts = random_prompts(size)
    for old, new in zip(logits_of(before, prompts), logits_of(after, prompts), strict=True):
        assert new.shape[1] == size + 1
        assert torch.equal(new[:, :size], old)
        assert (new[:, size] < old.max(dim=1).values).all()
    # Why it is so: the logit of the mean is the mean of the logits, but for the rounding of its row to float32.
    row = rows_of(after, TOKENS if after.config.tied else HEAD)[size].double()
    length = after.config.hidden_size**0.5 * rows_of(after, Weight(Role.FINAL_NORM)).abs().max()  # of a state, at most
    (old,), (new,) = (logits_of(model, prompts[:1], FLOAT64) for model in (before, after))
    assert ((new[:, size] - old.mean(dim=1)).abs() <= 2**-24 * length * row.norm()).all()


def test_a_row_of_zeros_would_win_where_all_logits_are_negative(store) -> None:
    """Negative control of the choice of the mean: the row of zeros scores 0."""
    head = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)) + torch.tensor([9.0, *[0.0] * 7])
    state = torch.tensor([-1.0, *[0.1] * 7])
    assert (head @ state).max() < 0
    for new, wins in ((ZERO, True), (MEAN, False)):
        longer = torch.frombuffer(bytearray(content(resized(Stored(store(head)), 101, new))), dtype=torch.float32)
        assert (int((longer.view(101, 8) @ state).argmax()) == 100) is wins


def test_transformers_computes_the_same(before_and_after: tuple[Path, Path]) -> None:
    from transformers import LlamaForCausalLM

    models = [LlamaForCausalLM.from_pretrained(path, dtype=torch.float32) for path in before_and_after]
    size = models[0].config.vocab_size
    assert [model.config.vocab_size for model in models] == [size, size + 1]
    assert models[1].config.pad_token_id == size
    ids = torch.tensor([prompt.tokens for prompt in random_prompts(size)])
    with torch.no_grad():
        old, new = (model(ids).logits for model in models)
    assert torch.equal(new[..., :size], old)
    assert (new[..., size] < old.amax(-1)).all()


@pytest.mark.parametrize("version", ["2", "3.2"])
def test_transformers_resizes_to_the_same(version: str, tmp_path: Path) -> None:
    """Old rows bit for bit, new ones to the rounding of their type: transformers adds noise far below that."""
    from transformers import LlamaForCausalLM

    model = random_model(version)
    folder = write_meta(model, tmp_path / "meta", tokenizer=model.tokenizer)
    convert_checkpoint(plan_conversion(folder, llama_version=version), tmp_path / "before")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "before", dtype=torch.bfloat16)
    size = theirs.config.vocab_size
    theirs.resize_token_embeddings(size + 5, pad_to_multiple_of=64)
    for init in (Init.MEAN, Init.NORMAL):
        plan = plan_conversion(
            tmp_path / "before", change=partial(resize_change, vocab_size=size + 64, init=init, seed=3)
        )
        convert_checkpoint(plan, tmp_path / init.value)
        ours = LlamaForCausalLM.from_pretrained(tmp_path / init.value, dtype=torch.bfloat16)
        assert ours.config.vocab_size == theirs.config.vocab_size == size + 64
        for get in ("get_input_embeddings", "get_output_embeddings"):
            mine, yours = getattr(ours, get)().weight, getattr(theirs, get)().weight
            assert mine.shape == yours.shape
            assert torch.equal(mine[:size], yours[:size])
            mean = yours[:size].double().mean(0)
            ulp = mean.abs() * 2**-7
            spread = 6 * 1e-9**0.5 * yours[:size].double().std(0)
            assert ((mine[size:].double() - mean).abs() <= ulp + spread).all()
            assert ((mine[size:].double() - yours[size:].double()).abs() <= 2 * ulp + 2 * spread).all()
