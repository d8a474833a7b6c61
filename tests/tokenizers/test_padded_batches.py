"""What padding is for: a batch of unequal prompts gives in transformers what each of them gives by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llama_convert.convert import open_checkpoint
from tests.tokenizers.changed import FIRST, changed, folder_with_spare_rows, new_tokens, written

PROMPTS = ["de ka", "The banana ba de go he", "x", "12 + 34 = größe, no?"]
RIGHT_PAD = 516  # Llama 3.1's own
# Rounding of float32 in sums of another length; a wrong mask or position changes logits by whole numbers.
CLOSE = 1e-5
CASES = {"a token that is there": ("3.1", RIGHT_PAD), "a new one": ("3.1", FIRST["3.1"]), "Llama 2": ("2", FIRST["2"])}


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, int]:
    """The model in float32, the tokenizer, the pad id."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    version, pad = request.param
    place = tmp_path_factory.mktemp("padded")
    folder = folder_with_spare_rows(place, version, dtype=torch.float32)
    tokens = () if pad == RIGHT_PAD else new_tokens(version, plain=False)
    out: Path = written(changed(open_checkpoint(folder), tokens, pad), place / "out", "hf")
    return LlamaForCausalLM.from_pretrained(out, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(out), pad


def batch_of(tokenizer: Any, side: str) -> Any:
    tokenizer.padding_side = side
    return tokenizer(PROMPTS, return_tensors="pt", padding=True)


def logits_of(model: Any, batch: Any) -> list[torch.Tensor]:
    """Of every prompt, at its own tokens."""
    with torch.no_grad():
        logits = model(**batch).logits
    return [row[mask.bool()] for row, mask in zip(logits, batch["attention_mask"], strict=True)]


def alone(model: Any, tokenizer: Any) -> list[torch.Tensor]:
    return [logits_of(model, tokenizer([prompt], return_tensors="pt"))[0] for prompt in PROMPTS]


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_padded_batch_are_those_of_the_prompts(loaded: tuple[Any, Any, int], side: str) -> None:
    model, tokenizer, pad = loaded
    batch = batch_of(tokenizer, side)
    assert torch.equal(batch["input_ids"] == pad, batch["attention_mask"] == 0)
    assert (batch["input_ids"] == pad).sum() > 10
    for found, wanted in zip(logits_of(model, batch), alone(model, tokenizer), strict=True):
        assert (found - wanted).abs().max() < CLOSE


def test_control_without_the_mask_logits_differ(loaded: tuple[Any, Any, int]) -> None:
    model, tokenizer, _ = loaded
    batch = batch_of(tokenizer, "left")
    with torch.no_grad():
        logits = model(batch["input_ids"]).logits
    shortest = PROMPTS.index("x")
    assert (logits[shortest, -1] - alone(model, tokenizer)[shortest][-1]).abs().max() > 1000 * CLOSE


def test_generation_from_a_padded_batch_is_that_of_one_by_one(loaded: tuple[Any, Any, int]) -> None:
    model, tokenizer, pad = loaded
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}
    assert model.generation_config.pad_token_id == pad
    batch = batch_of(tokenizer, "left")
    length = batch["input_ids"].shape[1]
    found = model.generate(**batch, **options)[:, length:]
    for row, prompt in zip(found, PROMPTS, strict=True):
        single = tokenizer([prompt], return_tensors="pt")
        wanted = model.generate(**single, **options)[0, single["input_ids"].shape[1] :]
        assert torch.equal(row, wanted)
    wrong = batch_of(tokenizer, "right")  # control: then what is continued is the padding
    continued = model.generate(**wrong, **options)[:, length:]
    assert not torch.equal(continued, found)
