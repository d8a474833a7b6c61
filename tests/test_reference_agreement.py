"""The judges agree with each other on a right conversion, and see every mistake we know of.

The conversion here is a few naive lines of this file, so that no test in it depends on the converter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.checkpoints import (
    CASES,
    RANKS,
    SPECIAL_TOKENS,
    WHOLE_TOKEN,
    Case,
    MetaModel,
    random_model,
    small_sentencepiece,
    small_tiktoken,
    with_kv_copies,
    write_meta,
)
from tests.meta_reference import (
    GATE,
    merge_shards,
    meta_logits,
    random_tokens,
    relative_difference,
    transformers_logits,
)

POSITIONS = 256
Weights = dict[str, Tensor]
Config = dict[str, Any]
Mistake = Callable[[Weights, Config, MetaModel], None]

NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def halves(weight: Tensor, head_dim: int) -> Tensor:
    """Rows x0 y0 x1 y1 ... of each head -> x0 x1 ... y0 y1 ..., by row numbers rather than by reshaping."""
    order = [
        head + pair * 2 + side
        for head in range(0, len(weight), head_dim)
        for side in range(2)
        for pair in range(head_dim // 2)
    ]
    return weight[order]


def pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Inverse of halves."""
    return weight[torch.argsort(halves(torch.arange(len(weight)), head_dim))]


def to_transformers(model: MetaModel) -> tuple[Weights, Config]:
    weights = {}
    for name, weight in model.weights.items():
        if name.endswith(("wq.weight", "wk.weight")):
            weight = halves(weight, model.head_dim)
        prefix, _, module = name.removesuffix(".weight").rpartition("layers.")
        layer, _, inner = module.partition(".") if "layers." in name else ("", "", module)
        new = f"model.layers.{layer}.{NAMES[inner]}" if layer else prefix + NAMES[inner]
        weights[f"{new}.weight"] = weight.contiguous()
    return weights, config(model)


def config(model: MetaModel) -> Config:
    params = model.params
    scaling = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"factor": model.rope_factor, "original_max_position_embeddings": 8192}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": params["dim"],
        "intermediate_size": model.weights["layers.0.feed_forward.w1.weight"].shape[0],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "vocab_size": model.vocab,
        "rms_norm_eps": params["norm_eps"],
        "rope_theta": params.get("rope_theta", 10000.0),
        "rope_scaling": scaling if params.get("use_scaled_rope") else None,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def write_transformers(folder: Path, weights: Weights, config: Config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.clone() for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def no_permutation(weights: Weights, config: Config, model: MetaModel) -> None:
    for name in weights:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights[name] = pairs(weights[name], model.head_dim)


def exchange(first: str, second: str) -> Mistake:
    def mistake(weights: Weights, config: Config, model: MetaModel) -> None:
        for name in list(weights):
            if first in name:
                other = name.replace(first, second)
                weights[name], weights[other] = weights[other], weights[name]

    return mistake


def setting(key: str, value: Any) -> Mistake:
    def mistake(weights: Weights, config: Config, model: MetaModel) -> None:
        assert config[key] != value, "this would be no mistake"
        config[key] = value

    return mistake


def other_factor(weights: Weights, config: Config, model: MetaModel) -> None:
    config["rope_scaling"] = config["rope_scaling"] | {"factor": 40.0 - config["rope_scaling"]["factor"]}


MISTAKES: dict[str, Mistake] = {
    "no permutation": no_permutation,
    "gate and up swapped": exchange("gate_proj", "up_proj"),
    "norms swapped": exchange("input_layernorm", "post_attention_layernorm"),
    "eps": setting("rms_norm_eps", 2e-6),
    "theta": setting("rope_theta", 20000.0),
}
