"""Files of the book's as they have been saved over the years: all read, and what changes the logits is said."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llama_convert.convert import convert_checkpoint, open_checkpoint, plan_conversion
from llama_convert.convert.architecture import RopeScaling, Rotary
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.errors import CheckpointError
from tests.book_reference import ASSUMED, book_config, book_logits, book_state, prefixed, saved, tables, with_buffers
from tests.checkpoints import MetaModel, random_model
from tests.meta_reference import GATE, meta_logits, random_tokens, relative_difference, transformers_logits

State = OrderedDict[str, Tensor]
POSITIONS = 256
VISIBLE = 50


def to_hf(source: Path, target: Path, **assume: str) -> Path:
    return convert_checkpoint(plan_conversion(source, assume=assume), target).folder


def hf_difference(model: MetaModel, folder: Path, **other: Any) -> float:
    tokens = random_tokens(model.vocab, POSITIONS)
    return relative_difference(meta_logits(model, tokens, **other), transformers_logits(folder, tokens))


# ---- traits that leave no trace ----


def training_checkpoint(state: State, name: str) -> dict[str, Any]:
    """As appendix D saves one: an optimizer that has made a step, numbers, a type."""
    module = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        name: state,
        "optimizer_state_dict": optimizer.state_dict(),
        "config": {"dtype": torch.bfloat16, "drop": None},
        "losses": [1.5, (2, "x")],
    }


def of_the_class(state: State, model: MetaModel, *, compiled: bool = False) -> Mapping[str, Tensor]:
    """What the real class's state_dict() is after a strict load."""
    from llms_from_scratch.llama3 import Llama3Model

    module = Llama3Model(book_config(model) | {"dtype": torch.bfloat16})
    module.load_state_dict(state)
    return (torch.compile(module) if compiled else module).state_dict()


def queries_first(state: State) -> State:
    """Llama2Model's order of modules."""
    return OrderedDict(sorted(state.items(), key=lambda item: not item[0].endswith("W_query.weight")))


def with_wide_norms(state: State) -> State:
    return OrderedDict((name, weight.float() if weight.ndim == 1 else weight) for name, weight in state.items())


def compiled_blocks(state: State) -> State:
    return OrderedDict((name.replace(".att.", "._orig_mod.att."), weight) for name, weight in state.items())


def tied_by_storage(state: State) -> State:
    return OrderedDict(state | {"out_head.weight": state["tok_emb.weight"]})


def tied_by_value(state: State) -> State:
    return OrderedDict(state | {"out_head.weight": state["tok_emb.weight"].clone()})


def buffered(state: State, model: MetaModel, dtype: torch.dtype) -> State:
    cos, sin = tables(model.head_dim, 500000.0, 512, 8.0)
    return with_buffers(state, 2, cos.to(dtype), sin.to(dtype))


TRAITS: dict[str, Callable[[State, MetaModel], Any]] = {
    "the class itself": of_the_class,
    "the class compiled": partial(of_the_class, compiled=True),
    "_orig_mod. before all": lambda state, _: prefixed("_orig_mod.", state),
    "_orig_mod. within": lambda state, _: compiled_blocks(state),
    "module. before all": lambda state, _: prefixed("module.", state),
    "both": lambda state, _: prefixed("module._orig_mod.", state),
    "model_state_dict": lambda state, _: training_checkpoint(state, "model_state_dict"),
    "model": lambda state, _: training_checkpoint(state, "model"),
    "compiled model": lambda state, _: training_checkpoint(prefixed("_orig_mod.", state), "model"),
    "parameters": lambda state, _: OrderedDict((name, nn.Parameter(weight)) for name, weight in state.items()),
    "queries first": lambda state, _: queries_first(state),
    "norms in float32": lambda state, _: with_wide_norms(state),
    "a mask": lambda state, _: OrderedDict({"mask": torch.ones(64, 64).triu(1).bool()} | state),
    "tables in every layer": lambda state, model: buffered(state, model, torch.float32),
    "tables in bfloat16": lambda state, model: buffered(state, model, torch.bfloat16),
    "tables at the top": lambda state, model: OrderedDict(
        dict(zip(("cos", "sin"), tables(model.head_dim, 500000.0, 512, 8.0), strict=True)) | state
    ),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("trait", TRAITS.values(), ids=list(TRAITS))
def test_a_trait_leaves_no_trace(trait: Callable[..., Any], legacy: bool, tmp_path: Path) -> None:
    """Whatever is around them, the weights written are the bytes that the plain file gives."""
    model = random_model("3.1")
    state = book_state(model)
    plain = to_hf(saved(model, tmp_path / "plain", state), tmp_path / "a", **ASSUMED["3.1"])
    other = to_hf(
        saved(model, tmp_path / "other", trait(state, model), legacy=legacy), tmp_path / "b", **ASSUMED["3.1"]
    )
    for name in ("model.safetensors", "config.json"):
        assert (plain / name).read_bytes() == (other / name).read_bytes()


def test_what_the_traits_are_compared_with_is_right(tmp_path: Path) -> None:
    model = random_model("3.1")
    folder = to_hf(saved(model, tmp_path / "in", book_state(model)), tmp_path / "out", **ASSUMED["3.1"])
    assert hf_difference(model, folder) <= GATE


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    model = random_model("3.1")
    state = buffered(book_state(model), model, torch.float32)
    notes = opened(saved(model, tmp_path, training_checkpoint(state, "model")), "3.1").notes
    assert "left out of model.pth: epoch, optimizer_state_dict, config, losses, which are no weights." in notes
    assert "left out of model.pth: 6 buffers (cos, mask, sin) that the class computes itself." in notes
    assert opened(saved(model, tmp_path, book_state(model)), "3.1").notes == ()


@pytest.mark.parametrize("tie", [tied_by_storage, tied_by_value])
def test_a_tied_head_is_known_by_its_values(tie: Callable[[State], State], tmp_path: Path) -> None:
    model = random_model("3.1", tied=False)
    assert not opened(saved(model, tmp_path, book_state(model)), "3.1").config.tied
    checkpoint = opened(saved(model, tmp_path, tie(book_state(model))), "3.1", llama_version="3.2", factor="32")
    assert checkpoint.config.tied


def opened(path: Path, version: str, *, llama_version: str | None = None, factor: str | None = None) -> Checkpoint:
    assumed = ASSUMED[version] | ({"rope_factor": factor} if factor else {})
    return open_checkpoint(path, llama_version, assumed)


def test_norms_that_need_float32_keep_it(tmp_path: Path) -> None:
    """Negative control of reading wide norms as narrow ones."""
    model = random_model("3.1")
    state = with_wide_norms(book_state(model))
    assert len(opened(saved(model, tmp_path, state), "3.1").widened) == 5
    state["final_norm.weight"] += 2**-20
    assert len(opened(saved(model, tmp_path, state), "3.1").widened) == 4


# ---- the two that change logits ----


def of_llama_2(model: MetaModel, *, reorder: bool) -> State:
    """Llama2Model's file: float32 norms, every layer with a mask and tables."""
    cos, sin = tables(model.head_dim, 10000.0, 512)
    return with_buffers(with_wide_norms(queries_first(book_state(model, reorder=reorder))), 2, cos, sin)


@pytest.mark.parametrize("reorder", [True, False], ids=["halves", "pairs"])
def test_rows_in_metas_order(reorder: bool, tmp_path: Path) -> None:
    """No file shows which order its rows have; a wrong answer is visibly wrong, either way."""
    model = random_model("2")
    path = saved(model, tmp_path / "in", of_llama_2(model, reorder=reorder))
    (note,) = (note for note in open_checkpoint(path).notes if "rotary=pairs" in note)
    assert "Llama2Model" in note
    halves = hf_difference(model, to_hf(path, tmp_path / "halves"))
    pairs = hf_difference(model, to_hf(path, tmp_path / "pairs", rotary="pairs"))
    right, wrong = (halves, pairs) if reorder else (pairs, halves)
    assert right <= GATE
    assert wrong > VISIBLE * GATE


def test_who_says_the_order_is_not_warned(tmp_path: Path) -> None:
    model = random_model("2")
    path = saved(model, tmp_path, of_llama_2(model, reorder=False))
    for name, order in (("pairs", Rotary.PAIRS), ("halves", Rotary.HALVES)):
        checkpoint = open_checkpoint(path, assume={"rotary": name})
        assert checkpoint.rotary is order
        assert not [note for note in checkpoint.notes if "rotary" in note]


def test_llama_3_with_tables_is_not_suspected_of_metas_order(tmp_path: Path) -> None:
    model = random_model("3.1")
    path = saved(model, tmp_path, buffered(book_state(model), model, torch.float32))
    assert not [note for note in open_checkpoint(path).notes if "rotary" in note]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("theta", "factor", "head_dim"),
    [(10000.0, None, 128), (500000.0, None, 128), (500000.0, 8.0, 128), (500000.0, 32.0, 64), (500000.0, 32.0, 16)],
)
def test_tables_show_theta_and_factor(
    theta: float, factor: float | None, head_dim: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = random_model("3.1", dim=4 * head_dim, heads=4, kv_heads=2, layers=1)
    cos, sin = (table.to(dtype) for table in tables(head_dim, theta, 300, factor))
    config = open_checkpoint(saved(model, tmp_path, with_buffers(book_state(model), 1, cos, sin))).config
    scaling = factor and RopeScaling(
        factor=factor, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=8192
    )
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)
    assert (config.heads, config.kv_heads, config.context) == (4, 2, 300)


def rescaled(model: MetaModel, folder: Path) -> Path:
    """A notebook's file of Llama 3.2: tables for 8,192 positions, theta rescaled from 131,072."""
    cos, sin = tables(model.head_dim, 500000.0 * 8192 / 131072, 8192, 32.0)
    mask = torch.zeros(1, 1)
    return saved(model, folder, with_buffers(book_state(model), 2, cos.bfloat16(), sin.bfloat16(), mask=mask))


def test_a_rescaled_theta_is_taken_as_the_class_computed(tmp_path: Path) -> None:
    """The book's class with that theta is the judge; Meta's model, when the user says that theta."""
    model = random_model("3.2")
    path = rescaled(model, tmp_path / "in")
    checkpoint = open_checkpoint(path)
    assert (checkpoint.config.rope_theta, checkpoint.config.context) == (31250.0, 8192)
    (note,) = (note for note in checkpoint.notes if "31250" in note)
    assert "--assume rope_theta=500000" in note
    tokens = random_tokens(model.vocab, POSITIONS)
    ran = book_logits(book_state(model), book_config(model, context=8192) | {"rope_base": 31250.0}, tokens)
    folder = to_hf(path, tmp_path / "out")
    assert relative_difference(ran, transformers_logits(folder, tokens)) <= GATE
    assert hf_difference(model, folder) > VISIBLE * GATE
    meant = to_hf(path, tmp_path / "meant", rope_theta="500000", context="131072")
    assert hf_difference(model, meant) <= GATE


def test_llama_3s_own_theta_is_not_taken_for_a_rescaled_one(tmp_path: Path) -> None:
    model = random_model("3")
    cos, sin = tables(model.head_dim, 500000.0, 4096)
    checkpoint = open_checkpoint(saved(model, tmp_path, with_buffers(book_state(model), 2, cos, sin)))
    assert checkpoint.config.rope_theta == 500000.0
    assert not [note for note in checkpoint.notes if "rescaled" in note]


def test_tables_that_contradict_what_is_said_are_told(tmp_path: Path) -> None:
    path = rescaled(random_model("3.2"), tmp_path)
    (note,) = (n for n in open_checkpoint(path, assume={"rope_theta": "500000"}).notes if "cos and sin" in n)
    assert "theta 31250, scaled by 32; taken is theta 500000, scaled by 32" in note


def test_tables_of_no_known_theta_tell_sizes_alone(tmp_path: Path) -> None:
    model = random_model("3.1")
    cos, sin = tables(model.head_dim, 77777.0, 512)
    path = saved(model, tmp_path, with_buffers(book_state(model), 2, cos, sin))
    with pytest.raises(CheckpointError, match=r"(?m)tell rope_theta, rope_factor$"):
        open_checkpoint(path)
    checkpoint = open_checkpoint(path, assume={"rope_theta": "77777", "rope_factor": "none"})
    assert (checkpoint.config.heads, checkpoint.config.context) == (12, 512)
    assert [note for note in checkpoint.notes if "fit nothing known" in note]


def test_the_mask_of_the_first_packages_tells_of_a_rescaled_theta(tmp_path: Path) -> None:
    """1.0.3 to 1.0.5 saved the mask and not the tables; the theta they ran with is only known by it."""
    model = random_model("3.1")
    state = OrderedDict({"mask": torch.ones(8192, 8192, dtype=torch.bool).triu(1)} | book_state(model))
    (note,) = (note for note in opened(saved(model, tmp_path, state), "3.1").notes if "rescaled" in note)
    assert "8,192 positions rescaled theta to 31250. Taken is 500000" in note
