"""Which files are the book's, and which of them are no whole model: refused, with what is wrong."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llama_convert.convert import open_checkpoint
from llama_convert.convert.errors import CheckpointError, UsageError
from tests.book_reference import ASSUMED, book_state, prefixed, saved
from tests.checkpoints import random_model

State = OrderedDict[str, Tensor]


def without(state: State, *endings: str) -> State:
    return OrderedDict((name, weight) for name, weight in state.items() if not name.endswith(endings))


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "lost head": (lambda state: without(state, "out_head.weight"), "missing  out_head.weight"),
    "lost matrix": (lambda state: without(state, "1.ff.fc2.weight"), "missing  trf_blocks.1.ff.fc2.weight"),
    "lost embedding": (lambda state: without(state, "tok_emb.weight"), "tok_emb.weight is missing or no matrix"),
    "lost layer": (lambda state: without(state, *(n for n in state if ".0." in n)), "trf_blocks.0.att.W_key.weight"),
    "vanished norms": (
        lambda state: without(state, "norm1.weight", "norm2.weight", "final_norm.weight"),
        "holds no norm at all: with a default dtype other than float32",
    ),
    "one norm lost": (lambda state: without(state, "final_norm.weight"), "missing  final_norm.weight"),
    "a tensor too many": (
        lambda state: OrderedDict(state | {"trf_blocks.0.att.lora_A": torch.ones(2, 2)}),
        "unknown  trf_blocks.0.att.lora_A",
    ),
    "misshapen": (
        lambda state: OrderedDict(state | {"trf_blocks.1.ff.fc3.weight": torch.ones(2, 2)}),
        "shape    trf_blocks.1.ff.fc3.weight",
    ),
    "integers": (
        lambda state: OrderedDict(state | {"trf_blocks.1.norm1.weight": torch.ones(192, dtype=torch.int64)}),
        "trf_blocks.1.norm1.weight is int64",
    ),
    "both compiled and not": (lambda state: OrderedDict(state | prefixed("_orig_mod.", state)), "twice"),
    "GPT-2": (
        lambda state: OrderedDict(state | {"pos_emb.weight": torch.ones(2, 2)}),
        "this is the book's GPTModel (GPT-2), not a Llama",
    ),
    "Qwen3": (
        lambda state: OrderedDict(state | {"trf_blocks.0.att.q_norm.scale": torch.ones(16)}),
        "such as Qwen3Model, not a Llama",
    ),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_no_whole_model_is_refused(change: Callable[[State], Any], words: str, tmp_path: Path) -> None:
    model = random_model("3.1", tied=True)
    path = saved(model, tmp_path, change(book_state(model)))
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path, assume=ASSUMED["3.1"])
    assert words in str(error.value)


def test_two_state_dicts_in_a_file_are_not_chosen_from(tmp_path: Path) -> None:
    model = random_model("3.1")
    state = book_state(model)
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        open_checkpoint(saved(model, tmp_path, {"model": state, "state_dict": state}), assume=ASSUMED["3.1"])


# ---- what is recognised ----


def test_the_file_or_its_folder(tmp_path: Path) -> None:
    model = random_model("3.1")
    path = saved(model, tmp_path, book_state(model))
    assert {open_checkpoint(place, assume=ASSUMED["3.1"]).format.name for place in (path, tmp_path)} == {"scratch"}
    torch.save({"something": torch.ones(2)}, tmp_path / "other.pth")
    assert open_checkpoint(tmp_path, assume=ASSUMED["3.1"]).files[0].path == path
    torch.save(book_state(model), tmp_path / "second.pt")
    with pytest.raises(UsageError, match="holds 2 checkpoints") as error:
        open_checkpoint(tmp_path, assume=ASSUMED["3.1"])
    assert error.value.problems == ("model.pth", "second.pt")


def test_the_tokenizer_may_lie_one_folder_above(tmp_path: Path) -> None:
    model = random_model("3.1")
    path = saved(model, tmp_path / "in", book_state(model))
    (tmp_path / "in" / "tokenizer.model").rename(tmp_path / "tokenizer.model")
    found = open_checkpoint(path, assume=ASSUMED["3.1"]).tokenizer
    assert found is not None
    assert found.path == tmp_path / "tokenizer.model"


@pytest.mark.parametrize(
    "names",
    [
        ["tok_embeddings.weight", "layers.0.attention.wq.weight", "norm.weight"],
        ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"],
        ["transformer.wte.weight", "transformer.h.0.attn.qkv.weight", "lm_head.weight"],
        ["xtrf_blocks.0.att.W_query.weight"],
        ["trf_blocks.00.att.W_query.weight"],
    ],
)
def test_files_of_others_are_left_to_them(names: list[str], tmp_path: Path) -> None:
    torch.save({name: torch.ones(2, 2) for name in names}, tmp_path / "model.pth")
    for place in (tmp_path, tmp_path / "model.pth"):
        with pytest.raises(CheckpointError, match="no checkpoint here"):
            open_checkpoint(place)
