"""What a mistake does to the weights and the config, in Hugging Face's names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.checkpoints import MetaModel, random_model
from tests.test_reference_agreement import Config, Weights, halves, pairs, to_transformers
from tests.test_reference_agreement import Mistake as Make

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


def undone_by_half_heads(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    return pairs(weight, model.head_dim // 2)


def backwards(weight: Tensor, part: str, model: MetaModel) -> Tensor:
    return weight.flip(0)


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


def scaling_added(weights: Weights, config: Config, model: MetaModel) -> None:
    config["rope_scaling"] = to_transformers(random_model("3.1"))[1]["rope_scaling"]


def last_layer_lost(weights: Weights, config: Config, model: MetaModel) -> None:
    config["num_hidden_layers"] -= 1
    for part in LAYER:
        del weights[named(part, LAYERS - 1)]


def truncated(weights: Weights, config: Config, model: MetaModel) -> None:
    """To bfloat16 by dropping 16 bits."""
    for name, weight in weights.items():
        weights[name] = (weight.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)


def scaling(key: str, value: float) -> Make:
    def make(weights: Weights, config: Config, model: MetaModel) -> None:
        config["rope_scaling"][key] = value

    return make


def layers_exchanged(weights: Weights, config: Config, model: MetaModel) -> None:
    for part in LAYER:
        first, last = named(part, 0), named(part, LAYERS - 1)
        weights[first], weights[last] = weights[last], weights[first]
