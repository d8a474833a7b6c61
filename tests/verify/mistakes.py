"""Every mistake that the proof must see and name, made on the way to Hugging Face's format.

The conversion they are made in is that of test_reference_agreement: nothing here comes from the converter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tests.checkpoints import CASES, Case, MetaModel, random_model
from tests.test_reference_agreement import Mistake as Make
from tests.test_reference_agreement import setting
from tests.verify.changes import (
    LAYER,
    LAYERS,
    TOP,
    Change,
    backwards,
    bit_flipped,
    by_heads_of,
    changing,
    copying,
    embedding_and_head_swapped,
    exchanging,
    final_norm_overwritten,
    half_the_heads,
    head_given_the_embedding,
    head_tied,
    head_untied,
    joined_on_the_other_axis,
    last_layer_lost,
    layers_exchanged,
    left_in_pairs,
    of_another_model,
    pieces_exchanged,
    reordered_again,
    row_added,
    row_lost,
    rows_zeroed,
    scaled,
    scaling,
    scaling_added,
    three_values,
    through,
    transposed,
    truncated,
    undone_by_half_heads,
    vocabulary,
)

VALUES = frozenset({"tensors", "logits"})
CONFIG = frozenset({"structure", "logits"})
BITS = frozenset({"tensors"})  # too small for the logits, or in rows that the prompt may not touch


@dataclass(frozen=True, slots=True, kw_only=True)
class WithTinyValues(Case):
    """A model with values below float16's smallest in every seventh place, as released models have some."""

    def model(self, *, seed: int = 0) -> MetaModel:
        found = Case.model(self, seed=seed)
        for weight in found.weights.values():
            weight.view(-1)[::7] *= 2.0**-20
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class InFloat32(Case):
    """A model with all 24 bits of each value, as training leaves it."""

    def model(self, *, seed: int = 0) -> MetaModel:
        return random_model(self.version, seed=seed, dtype=torch.float32)


MODELS: dict[str, Case] = {
    case.name: case
    for case in (
        *CASES,
        WithTinyValues(name="3.1-tiny", version="3.1"),
        WithTinyValues(name="2-tiny", version="2"),
        InFloat32(name="2-float32", version="2"),
    )
}


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """model: a name in CASES. levels: those that must fail. layers: those that the diagnosis must name,
    None where it speaks of others too.

    may: levels that may fail or pass.
    """

    name: str
    model: str
    cause: str
    levels: frozenset[str]
    make: Make
    layers: tuple[int, ...] | None = ()
    may: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.model}-{self.name}"


# ---- the registry ----

ALL, FIRST, LAST = tuple(range(LAYERS)), (0,), (LAYERS - 1,)


def _spread(name: str, model: str, cause: str, parts: tuple[str, ...], change: Change) -> Iterator[Mistake]:
    """The change made in all layers, in the last, and in one tensor alone."""
    for where, chosen, layers in (
        ("in all layers", parts, ALL),
        ("in the last layer", parts, LAST),
        (f"in {parts[-1]} alone", parts[-1:], FIRST),
    ):
        make = changing(chosen, layers, change)
        yield Mistake(name=f"{name} {where}", model=model, cause=cause, levels=VALUES, make=make, layers=layers)


def _swapped(name: str, model: str, cause: str, first: str, second: str) -> Iterator[Mistake]:
    """The same of an exchange; one tensor alone is a copy of the other."""
    for where, make, layers in (
        ("in all layers", exchanging(first, second, ALL), ALL),
        ("in the last layer", exchanging(first, second, LAST), LAST),
        (f"in {first} alone", copying(second, first, FIRST), FIRST),
    ):
        yield Mistake(name=f"{name} {where}", model=model, cause=cause, levels=VALUES, make=make, layers=layers)


def _of_both(model: str) -> Iterator[Mistake]:
    """Mistakes in models of every kind."""
    order, heads = "rotary-order", "wrong-heads-in-reorder"
    for name, cause, parts, change in (
        ("q and k not reordered", order, ("q", "k"), left_in_pairs),
        ("k not reordered", order, ("k",), left_in_pairs),
        ("q and k reordered twice", "rotary-order-twice", ("q", "k"), reordered_again),
        ("v reordered", "values-reordered", ("v",), reordered_again),
        ("k reordered with twice the heads", heads, ("k",), by_heads_of(lambda model: 2 * model.kv_heads)),
        ("q reordered as one head", heads, ("q",), by_heads_of(lambda model: 1)),
        ("q put back by half heads", "rows-reordered", ("q",), undone_by_half_heads),
        ("rows of up backwards", "rows-reordered", ("up",), backwards),
        ("o transposed", "transposed", ("o",), transposed),
        ("q scaled", "scaled", ("q",), scaled),
    ):
        yield from _spread(name, model, cause, parts, change)
    for name, cause, first, second in (
        ("gate and up swapped", "gate-and-up-swapped", "gate", "up"),
        ("norms swapped", "norms-swapped", "norm1", "norm2"),
        ("k and v swapped", "keys-and-values-swapped", "k", "v"),
    ):
        yield from _swapped(name, model, cause, first, second)
    yield from _pieces(model)
    yield from _single(model)
    yield from _damaged(model)
    yield from _configured(model)


def _pieces(model: str) -> Iterator[Mistake]:
    """Joined wrong, of as many pieces as any file of A's may have been cut into."""
    wrong, axis = "shards-in-wrong-order", "joined-on-the-wrong-axis"
    rows, columns = ("q", "v", "gate", "up"), ("o", "down")
    for name, cause, parts, change in (
        ("rows of 2 pieces exchanged", wrong, rows, pieces_exchanged(2, 0)),
        ("rows of 4 pieces exchanged", wrong, ("k", "gate"), pieces_exchanged(4, 0)),
        ("columns of 4 pieces exchanged", wrong, columns, pieces_exchanged(4, 1)),
        ("rows joined as columns", axis, rows, joined_on_the_other_axis(4, 0)),
        ("columns joined as rows", axis, columns, joined_on_the_other_axis(2, 1)),
    ):
        yield from _spread(name, model, cause, parts, change)
    for name, cause, part, change in (
        ("embedding's pieces exchanged", wrong, "embedding", pieces_exchanged(2, 1)),
        ("head's pieces exchanged", wrong, "head", pieces_exchanged(2, 0)),
        ("embedding joined on the wrong axis", axis, "embedding", joined_on_the_other_axis(2, 1)),
    ):
        yield Mistake(name=name, model=model, cause=cause, levels=VALUES, make=changing((part,), (), change))


def _single(model: str) -> Iterator[Mistake]:
    """One tensor of another model, layer, role."""
    for part, layers in (("k", LAST), ("down", LAST), ("norm2", FIRST), ("embedding", ()), ("head", ())):
        make = of_another_model(part, layers[0] if layers else None)
        name = f"{part} of another model"
        yield Mistake(name=name, model=model, cause="tensor-of-another-model", levels=VALUES, make=make, layers=layers)
    for name, cause, make in (
        ("head tied", "head-tied-by-mistake", head_tied),
        ("head overwritten by the embedding", "head-tied-by-mistake", head_given_the_embedding),
        ("rows of the vocabulary shifted down", "vocabulary-off-by-one", changing(("embedding", "head"), (), row_lost)),
        ("rows of the vocabulary shifted up", "vocabulary-off-by-one", changing(("embedding", "head"), (), row_added)),
    ):
        yield Mistake(name=name, model=model, cause=cause, levels=VALUES, make=make)
    yield Mistake(
        name="final norm overwritten",
        model=model,
        cause="norms-swapped",
        levels=VALUES,
        make=final_norm_overwritten,
        layers=None,
    )
    yield Mistake(
        name="embedding and head swapped",
        model=model,
        cause="embedding-and-head-swapped",
        levels=VALUES,
        make=embedding_and_head_swapped,
    )
    yield Mistake(
        name="layers exchanged",
        model=model,
        cause="tensor-of-another-layer",
        levels=VALUES,
        make=layers_exchanged,
        layers=ALL,
    )


def _damaged(model: str) -> Iterator[Mistake]:
    for part in (*LAYER, *TOP):
        for bit in (0, 12):
            yield Mistake(
                name=f"bit {bit} of {part} flipped",
                model=model,
                cause="flipped-bit",
                levels=BITS,
                make=changing((part,), LAST, bit_flipped(bit)),
                layers=() if part in TOP else LAST,
                may=frozenset({"logits"}),
            )
    for name, cause, parts, change in (
        ("three values changed", "few-values-changed", ("up",), three_values),
        ("rows zeroed", "rows-zeroed", ("up",), rows_zeroed),
    ):
        yield from _spread(name, model, cause, parts, change)


def _configured(model: str) -> Iterator[Mistake]:
    for name, cause, levels, make in (
        ("wrong theta", "wrong-theta", CONFIG, setting("rope_theta", 20000.0)),
        ("wrong eps", "wrong-norm-eps", CONFIG, setting("rms_norm_eps", 1e-6)),
        ("half the heads", "wrong-head-count", CONFIG | VALUES, half_the_heads),
        ("a row too many", "vocabulary-off-by-one", CONFIG | VALUES, vocabulary(1)),
        ("64 rows too many", "other-vocabulary", CONFIG | VALUES, vocabulary(64)),
        ("the last layer lost", "other-sizes", CONFIG | VALUES, last_layer_lost),
        ("wrong context", "wrong-context", frozenset({"structure"}), setting("max_position_embeddings", 1000)),
        ("a row too few", "vocabulary-off-by-one", CONFIG | VALUES, vocabulary(-1)),
    ):
        layers = None if cause == "other-sizes" else ()
        yield Mistake(name=name, model=model, cause=cause, levels=levels, make=make, layers=layers)


def _of_3_1() -> Iterator[Mistake]:
    for name, cause, make in (
        ("scaling missing", "rope-scaling-missing", setting("rope_scaling", None)),
        ("factor of 32", "rope-scaling-factor", scaling("factor", 32.0)),
        ("low frequency factor", "rope-scaling-frequencies", scaling("low_freq_factor", 2.0)),
        ("original context", "rope-scaling-context", scaling("original_max_position_embeddings", 4096)),
    ):
        yield Mistake(name=name, model="3.1", cause=cause, levels=CONFIG, make=make)


def _of_others() -> Iterator[Mistake]:
    for name, model, cause, levels, make in (
        ("head untied", "3.2", "head-untied-by-mistake", VALUES, head_untied),
        ("scaling added", "3", "rope-scaling-added", CONFIG, scaling_added),
        ("cut off to bfloat16", "2-float32", "truncated-not-rounded", VALUES, truncated),
    ):
        layers = ALL if model == "2-float32" else ()
        yield Mistake(name=name, model=model, cause=cause, levels=levels, make=make, layers=layers)


def _of_shards() -> Iterator[Mistake]:
    """A's own cuts are known here."""
    wrong, axis = "shards-in-wrong-order", "joined-on-the-wrong-axis"
    for model, count in (("3.1-4shards", 4), ("2-2shards", 2)):
        for name, cause, parts, change in (
            ("rows of the shards exchanged", wrong, ("q", "k", "gate"), pieces_exchanged(count, 0)),
            ("columns of the shards exchanged", wrong, ("o", "down"), pieces_exchanged(count, 1)),
            ("shards joined on the wrong axis", axis, ("o", "down"), joined_on_the_other_axis(count, 1)),
        ):
            yield from _spread(name, model, cause, parts, change)


def _detours() -> Iterator[Mistake]:
    """float16 holds moderate values of bfloat16 exactly: the others are planted, and too small for the logits."""
    for where, parts in (("of all", (*LAYER, *TOP)), ("of down alone", ("down",))):
        for model in ("3.1-tiny", "2-tiny"):
            yield Mistake(
                name=f"float16 detour {where}",
                model=model,
                cause="float16-detour",
                levels=BITS,
                make=changing(parts, LAST, through(torch.float16)),
                layers=LAST,
                may=frozenset({"logits"}),
            )
        yield Mistake(
            name=f"bfloat16 detour {where}",
            model="1",
            cause="bfloat16-detour",
            levels=VALUES,
            make=changing(parts, LAST, through(torch.bfloat16)),
            layers=LAST,
        )


def _all() -> Iterator[Mistake]:
    yield from _of_both("3.1")
    yield from _of_both("2")
    yield from _of_3_1()
    yield from _of_shards()
    yield from _of_others()
    yield from _detours()


MISTAKES = {str(mistake): mistake for mistake in _all()}
