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
    SPECIAL_TOKENS,
    SPLIT_AXES,
    Case,
    MetaModel,
    Tied,
    random_model,
    with_kv_copies,
    write_meta,
)
from tests.meta_reference import (
    GATE,
    merge_shards,
    meta_logits,
    meta_transformer,
    random_tokens,
    relative_difference,
    transformers_logits,
)
from tests.small_tokenizers import PIECES, RANKS, WHOLE_TOKEN, small_sentencepiece, small_tiktoken

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
        weights[new_name(name)] = weight
    return weights, config(model)


def new_name(name: str) -> str:
    name = name.removesuffix(".weight")
    if not name.startswith("layers."):
        return f"{NAMES[name]}.weight"
    _, layer, inner = name.split(".", 2)
    return f"model.layers.{layer}.{NAMES[inner]}.weight"


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
    separate = {name: weight.clone() for name, weight in weights.items()}  # a tied pair would be refused
    save_file(separate, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def no_permutation(weights: Weights, config: Config, model: MetaModel) -> None:
    for name in weights:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights[name] = pairs(weights[name], model.head_dim)


def keys_by_wrong_heads(weights: Weights, config: Config, model: MetaModel) -> None:
    """The keys reordered as if they had twice the heads, each of half the size."""
    for name in weights:
        if name.endswith("k_proj.weight"):
            weights[name] = halves(pairs(weights[name], model.head_dim), model.head_dim // 2)


def exchange(first: str, second: str) -> Mistake:
    def mistake(weights: Weights, config: Config, model: MetaModel) -> None:
        for name in [name for name in weights if first in name]:
            other = name.replace(first, second)
            weights[name], weights[other] = weights[other], weights[name]

    return mistake


def setting(key: str, value: Any) -> Mistake:
    def mistake(weights: Weights, config: Config, model: MetaModel) -> None:
        config[key] = value

    return mistake


def factor_of_32(weights: Weights, config: Config, model: MetaModel) -> None:
    config["rope_scaling"]["factor"] = 32.0


BOTH: dict[str, Mistake] = {
    "no-permutation": no_permutation,
    "gate-and-up": exchange("gate_proj", "up_proj"),
    "norms": exchange("input_layernorm", "post_attention_layernorm"),
    "eps": setting("rms_norm_eps", 1e-6),
}
MISTAKES = {
    **{f"2-{name}": mistake for name, mistake in BOTH.items()},
    "2-theta": setting("rope_theta", 500000.0),
    **{f"3.1-{name}": mistake for name, mistake in BOTH.items()},
    "3.1-theta": setting("rope_theta", 10000.0),
    "3.1-keys-by-wrong-heads": keys_by_wrong_heads,
    "3.1-scaling-lost": setting("rope_scaling", None),
    "3.1-scaling-factor": factor_of_32,
}


@pytest.mark.parametrize("version", ["1", "2", "code", "3", "3.1", "3.2"])
def test_judges_agree_on_a_right_conversion(version: str, tmp_path: Path) -> None:
    model = random_model(version)
    assert difference(model, *to_transformers(model), tmp_path) <= GATE


@pytest.mark.parametrize("name", MISTAKES)
def test_judges_see_a_mistake(name: str, tmp_path: Path) -> None:
    model = random_model(name.partition("-")[0])
    weights, config = to_transformers(model)
    MISTAKES[name](weights, config, model)
    assert difference(model, weights, config, tmp_path) > 50 * GATE


def difference(model: MetaModel, weights: Weights, config: Config, folder: Path) -> float:
    tokens = random_tokens(model.vocab, POSITIONS)
    write_transformers(folder, weights, config)
    return relative_difference(meta_logits(model, tokens), transformers_logits(folder, tokens))


def test_a_missing_tensor_is_no_number_to_compare(tmp_path: Path) -> None:
    weights, config = to_transformers(random_model("3"))
    del weights["lm_head.weight"]
    with pytest.raises(AssertionError, match="missing"):
        transformers_logits(write_transformers(tmp_path, weights, config), [1])


def test_nothing_to_compare_is_not_agreement() -> None:
    assert relative_difference(torch.tensor([0.0, 1.0]), torch.tensor([0.0, torch.nan])) == torch.inf


def test_factor_8_is_metas_own_and_the_patch_leaves_no_trace() -> None:
    """The scaling written here, at a factor next to 8, gives Meta's numbers; and Meta's stays as it was."""
    from llama_models.llama3 import model as meta

    model, tokens, before = random_model("3.1"), random_tokens(768, POSITIONS), meta.apply_scaling
    near = meta_logits(model, tokens, rope_factor=8.0 * (1 + 1e-7))
    assert relative_difference(meta_logits(model, tokens), near) <= GATE
    assert meta.apply_scaling is before


def test_shards_are_split_where_metas_layers_are() -> None:
    for name, layer in meta_transformer(random_model("3"), 1).named_modules():
        module = name.rpartition(".")[2]
        if module in SPLIT_AXES:
            assert layer.split_axis == SPLIT_AXES[module], name
        else:
            assert not hasattr(layer, "split_axis") or module == "tok_embeddings", name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_files_hold_the_model(case: Case, meta_checkpoint: Callable[[Case], Path]) -> None:
    folder = meta_checkpoint(case)
    merged, model = merge_shards(folder), case.model()
    assert len(list(folder.glob("*.pth"))) == case.shards
    assert_same(merged, with_kv_copies(model, case.kv_copies))
    assert merged.tied == (case.tied is not False and case.version == "3.2")


@pytest.mark.parametrize("option", ["legacy", "shared_storage", "strided", "rope_freqs", "params_nested"])
@pytest.mark.parametrize("shards", [1, 2])
def test_files_laid_out_otherwise_hold_the_model(option: str, shards: int, tmp_path: Path) -> None:
    model = random_model("3.2")
    merged = merge_shards(write_meta(model, tmp_path, shards=shards, **{option: True}))
    assert ("rope.freqs" in merged.weights) == (option == "rope_freqs")
    merged.weights.pop("rope.freqs", None)
    assert_same(merged, model)


def assert_same(merged: MetaModel, model: MetaModel) -> None:
    assert merged.params == model.params
    assert list(merged.weights) == list(model.weights)
    for name, weight in model.weights.items():
        assert merged.weights[name].dtype == weight.dtype
        assert torch.equal(merged.weights[name], weight), name


@pytest.mark.parametrize(("tied", "same"), [(True, True), ("copy", False)])
@pytest.mark.parametrize("shared_storage", [False, True])
def test_tied_head_shares_its_bytes(tied: Tied, same: bool, shared_storage: bool, tmp_path: Path) -> None:
    write_meta(random_model("3.2", tied=tied), tmp_path, shared_storage=shared_storage)
    weights = torch.load(tmp_path / "consolidated.00.pth", weights_only=True)
    assert (weights["output.weight"].data_ptr() == weights["tok_embeddings.weight"].data_ptr()) == same


def test_kv_copies_are_the_same_function() -> None:
    model = CASES[-1].model()
    tokens = random_tokens(model.vocab, 64)
    assert torch.equal(meta_logits(model, tokens), meta_logits(with_kv_copies(model, 2), tokens))


def test_tiktoken_file_is_read_by_metas_tokenizer(tmp_path: Path) -> None:
    from llama_models.llama3.tokenizer import Tokenizer

    tokenizer = Tokenizer(small_tiktoken(tmp_path / "tokenizer.model"))
    text = "Zqxj  größe 世界 👩\u200d🚀 don't 12345\n\n  x"
    assert tokenizer.n_words == RANKS + SPECIAL_TOKENS
    assert tokenizer.decode(tokenizer.encode(text, bos=False, eos=False)) == text
    assert tokenizer.encode(WHOLE_TOKEN.decode(), bos=False, eos=False) == [RANKS - 1]
    assert len(tokenizer.encode(f" {WHOLE_TOKEN.decode()}", bos=False, eos=False)) == 4  # " " z qx j


def test_sentencepiece_file_is_read_by_its_library(tmp_path: Path) -> None:
    import sentencepiece

    path = small_sentencepiece(tmp_path / "tokenizer.model")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert tokenizer.vocab_size() == PIECES
    assert (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()) == (0, 1, 2, -1)
    assert tokenizer.decode(tokenizer.encode("  größe 世界 👩\u200d🚀 12345 q")) == "  größe 世界 👩\u200d🚀 12345 q"
    assert tokenizer.is_byte(tokenizer.encode("Ω")[-1])
