"""Every mistake that the proof must see and name, made on the way to Hugging Face's format.

The conversion they are made in is that of test_reference_agreement: nothing here comes from the converter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.checkpoints import CASES, Case, MetaModel, random_model
from tests.test_reference_agreement import Config, Weights, halves, pairs, setting, to_transformers
from tests.test_reference_agreement import Mistake as Make

VALUES = frozenset({"tensors", "logits"})
CONFIG = frozenset({"structure", "logits"})
BITS = frozenset({"tensors"})  # too small for the logits, or in rows that the prompt may not touch

# What a mistake does to one tensor: (tensor, its name's last word, the model) -> the wrong one.
Change = Callable[[Tensor, str, MetaModel], Tensor]
LAYER = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
}
TOP = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight", "norm": "model.norm.weight"}
LAYERS = 2  # of the models in CASES


@dataclass(frozen=True, slots=True, kw_only=True)
class WithTinyValues(Case):
    """A model with values below float16's smallest in every seventh place, as released models have some."""

    def model(self, *, seed: int = 0) -> MetaModel:
        found = Case.model(self, seed=seed)
        for weight in found.weights.values():
            weight.view(-1)[::7] *= 2.0**-20
        return found


MODELS: dict[str, Case] = {
    case.name: case
    for case in (*CASES, WithTinyValues(name="3.1-tiny", version="3.1"), WithTinyValues(name="2-tiny", version="2"))
}


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """model: a name in CASES. levels: those that must fail. layers: those that the diagnosis must name; () for none.

    may: levels that may fail or pass.
    """

    name: str
    model: str
    cause: str
    levels: frozenset[str]
    make: Make
    layers: tuple[int, ...] = ()
    may: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.model}-{self.name}"


def named(part: str, layer: int | None) -> str:
    return TOP[part] if layer is None else f"model.layers.{layer}.{LAYER[part]}.weight"


def changing(parts: tuple[str, ...], layers: tuple[int, ...], change: Change) -> Make:
    """The change made to these parts of these layers; parts of no layer are changed once."""

    def make(weights: Weights, config: Config, model: MetaModel) -> None:
        for part in parts:
            for layer in (None,) if part in TOP else layers:
                name = named(part, layer)
                weights[name] = change(weights[name], part, model).contiguous()

    return make


def exchanging(first: str, second: str, layers: tuple[int, ...]) -> Make:
    def make(weights: Weights, config: Config, model: MetaModel) -> None:
        for layer in layers:
            one, other = named(first, layer), named(second, layer)
            weights[one], weights[other] = weights[other], weights[one]

    return make


def copying(source: str, target: str, layers: tuple[int, ...]) -> Make:
    def make(weights: Weights, config: Config, model: MetaModel) -> None:
        for layer in layers:
            weights[named(target, layer)] = weights[named(source, layer)]

    return make


# ---- changes of one tensor ----


def left_in_pairs(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    return pairs(weight, model.head_dim)


def reordered_again(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    return halves(weight, model.head_dim)


def by_heads_of(count: Callable[[MetaModel], int]) -> Change:
    """Reordered as if there were so many heads; the rows decide how large each is."""

    def change(weight: Tensor, part: str, model: MetaModel) -> Tensor:
        return halves(pairs(weight, model.head_dim), len(weight) // count(model))

    return change


def pieces_exchanged(count: int, axis: int) -> Change:
    """Pieces 1 0 3 2 ..., as the reorder comes after joining, of q and k by pairs."""

    def change(weight: Tensor, part: str, model: MetaModel) -> Tensor:
        pieces = before_reorder(weight, part, model).chunk(count, dim=axis)
        return after_reorder(torch.cat([pieces[i ^ 1] for i in range(count)], dim=axis), part, model)

    return change


def joined_on_the_other_axis(count: int, axis: int) -> Change:
    """axis: the right one."""

    def change(weight: Tensor, part: str, model: MetaModel) -> Tensor:
        pieces = before_reorder(weight, part, model).chunk(count, dim=axis)
        return after_reorder(torch.cat(pieces, dim=1 - axis).reshape(weight.shape), part, model)

    return change


def before_reorder(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    return pairs(weight, model.head_dim) if part in ("q", "k") else weight


def after_reorder(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    return halves(weight, model.head_dim) if part in ("q", "k") else weight


def through(dtype: torch.dtype) -> Change:
    def change(weight: Tensor, part: str, model: MetaModel) -> Tensor:
        return weight.to(dtype).to(weight.dtype)

    return change


def row_lost(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    """Row 300 left out, the last one twice."""
    return torch.cat((weight[:300], weight[301:], weight[-1:]))


def row_added(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    """A row of zeros before the first, the last one lost."""
    return torch.cat((torch.zeros_like(weight[:1]), weight[:-1]))


def bit_flipped(bit: int) -> Change:
    def change(weight: Tensor, part: str, model: MetaModel) -> Tensor:
        flipped = weight.clone()
        flipped.view(torch.int16).view(-1)[weight.numel() // 2 + 5] ^= 1 << bit
        return flipped

    return change


def three_values(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    changed = weight.clone()
    changed.view(-1)[torch.tensor([5, 77, 100])] += 1
    return changed


def rows_zeroed(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    changed = weight.clone()
    changed[40:56] = 0
    return changed


def transposed(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    return weight.T


def scaled(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    return weight * model.head_dim**-0.5


# ---- changes of several, and of the config ----


def of_another_model(part: str, layer: int | None) -> Make:
    def make(weights: Weights, config: Config, model: MetaModel) -> None:
        other = random_model(model.version or "", seed=7)
        weights[named(part, layer)] = to_transformers(other)[0][named(part, layer)]

    return make


def head_tied(weights: Weights, config: Config, model: MetaModel) -> None:
    del weights["lm_head.weight"]
    config["tie_word_embeddings"] = True


def head_untied(weights: Weights, config: Config, model: MetaModel) -> None:
    config["tie_word_embeddings"] = False
    weights["lm_head.weight"] = random_model("3.2", seed=7, tied=False).weights["output.weight"]


def head_given_the_embedding(weights: Weights, config: Config, model: MetaModel) -> None:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]


def embedding_and_head_swapped(weights: Weights, config: Config, model: MetaModel) -> None:
    embedding, head = TOP["embedding"], TOP["head"]
    weights[embedding], weights[head] = weights[head], weights[embedding]


def final_norm_overwritten(weights: Weights, config: Config, model: MetaModel) -> None:
    weights[TOP["norm"]] = weights[named("norm2", 1)]


def vocabulary(change: int) -> Make:
    def make(weights: Weights, config: Config, model: MetaModel) -> None:
        config["vocab_size"] += change
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            weight = weights[name]
            weights[name] = weight[:change] if change < 0 else torch.cat((weight, weight[:change]))

    return make


def half_the_heads(weights: Weights, config: Config, model: MetaModel) -> None:
    """Each twice as large: all shapes stay what they are."""
    config["num_attention_heads"] //= 2
    config["num_key_value_heads"] //= 2


def scaling(key: str, value: float) -> Make:
    def make(weights: Weights, config: Config, model: MetaModel) -> None:
        config["rope_scaling"][key] = value

    return make


def layers_exchanged(weights: Weights, config: Config, model: MetaModel) -> None:
    for part in LAYER:
        first, last = named(part, 0), named(part, LAYERS - 1)
        weights[first], weights[last] = weights[last], weights[first]


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
        name="final norm overwritten", model=model, cause="norms-swapped", levels=VALUES, make=final_norm_overwritten
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
        ("a row too few", "vocabulary-off-by-one", CONFIG | VALUES, vocabulary(-1)),
    ):
        yield Mistake(name=name, model=model, cause=cause, levels=levels, make=make)


def _of_3_1() -> Iterator[Mistake]:
    for name, cause, make in (
        ("scaling missing", "rope-scaling-missing", setting("rope_scaling", None)),
        ("factor of 32", "rope-scaling-factor", scaling("factor", 32.0)),
        ("low frequency factor", "rope-scaling-frequencies", scaling("low_freq_factor", 2.0)),
        ("original context", "rope-scaling-context", scaling("original_max_position_embeddings", 4096)),
    ):
        yield Mistake(name=name, model="3.1", cause=cause, levels=CONFIG, make=make)


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
    yield Mistake(name="head untied", model="3.2", cause="head-untied-by-mistake", levels=VALUES, make=head_untied)
    yield from _detours()


MISTAKES = {str(mistake): mistake for mistake in _all()}
