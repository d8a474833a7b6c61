"""The judge of the scratch format: the classes of the book LLMs-from-scratch, and state dicts as they save them.

Nothing here imports llama_convert. Sources: llms_from_scratch 1.0.19 llama3.py; 1.0.5 and the notebooks of
ch05/07_gpt_to_llama for what older files hold besides.
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.checkpoints import MetaModel, hidden_dim
from tests.small_tokenizers import PIECES, RANKS, small_sentencepiece, small_tiktoken

# What --assume must say of a random model of this version, as its file does not.
ASSUMED = {
    "2": {"heads": "12", "rope_theta": "10000", "rope_factor": "none", "context": "4096"},
    "3.1": {"heads": "12", "rope_theta": "500000", "rope_factor": "8", "context": "131072"},
}

LAYER_NAMES = {
    "att.W_key": "attention.wk",
    "att.W_value": "attention.wv",
    "att.W_query": "attention.wq",
    "att.out_proj": "attention.wo",
    "ff.fc1": "feed_forward.w1",
    "ff.fc2": "feed_forward.w3",
    "ff.fc3": "feed_forward.w2",
    "norm1": "attention_norm",
    "norm2": "ffn_norm",
}


def book_names(layers: int) -> dict[str, str]:
    """The book's names, in the order of state_dict(), with Meta's."""
    names = {"tok_emb.weight": "tok_embeddings.weight"}
    for layer in range(layers):
        names |= {
            f"trf_blocks.{layer}.{book}.weight": f"layers.{layer}.{meta}.weight" for book, meta in LAYER_NAMES.items()
        }
    return names | {"final_norm.weight": "norm.weight", "out_head.weight": "output.weight"}


def book_state(model: MetaModel, *, reorder: bool = True) -> OrderedDict[str, Tensor]:
    """The state dict that the class has after loading the model; reorder: q and k by the published formula."""
    found: OrderedDict[str, Tensor] = OrderedDict()
    for book, meta in book_names(model.params["n_layers"]).items():
        weight = model.weights[meta]
        if reorder and book.endswith(("W_query.weight", "W_key.weight")):
            pairs = weight.view(-1, model.head_dim // 2, 2, weight.shape[1])
            weight = pairs.transpose(1, 2).reshape(weight.shape)
        found[book] = weight
    return found


def book_config(model: MetaModel, *, context: int = 131072) -> dict[str, Any]:
    """The dict that the class takes for the model, in float32."""
    rope = {"factor": model.rope_factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {
        "vocab_size": model.vocab,
        "context_length": context,
        "emb_dim": model.params["dim"],
        "n_heads": model.heads,
        "n_layers": model.params["n_layers"],
        "hidden_dim": hidden_dim(model.params),
        "n_kv_groups": model.kv_heads,
        "rope_base": model.params.get("rope_theta", 10000.0),
        "dtype": torch.float32,
        "rope_freq": rope | {"original_context_length": 8192} if model.params.get("use_scaled_rope") else None,
    }


def book_classes() -> dict[str, type[nn.Module]]:
    """The classes of 1.0.19 that a file must fit."""
    from llms_from_scratch import llama3
    from llms_from_scratch.kv_cache import llama3 as cached

    return {
        "plain": llama3.Llama3Model,
        "fast": llama3.Llama3ModelFast,
        "cached": cached.Llama3Model,
        "cached and fast": cached.Llama3ModelFast,
    }


def imported_config(folder: Path) -> dict[str, Any]:
    """CONFIG of the folder's scratch_config.py, imported as a user would."""
    spec = importlib.util.spec_from_file_location("scratch_config", folder / "scratch_config.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.CONFIG
    assert isinstance(config, dict)
    return config


def book_logits(
    state: Mapping[str, Tensor], config: Mapping[str, Any], tokens: Sequence[int] | Tensor, kind: str = "plain"
) -> Tensor:
    """Logits of the class in float32 after a strict load: (positions, vocab)."""
    model = book_classes()[kind]({**config, "dtype": torch.float32})
    model.load_state_dict(dict(state), strict=True)
    with torch.no_grad():
        return model(torch.as_tensor(tokens, dtype=torch.long).reshape(1, -1))[0]


def tables(head_dim: int, theta: float, context: int, factor: float | None = None) -> tuple[Tensor, Tensor]:
    """cos and sin as compute_rope_params gives them, (context, head_dim) each, float32."""
    from llms_from_scratch.llama3 import compute_rope_params

    scaling = {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context_length": 8192}
    return compute_rope_params(head_dim, theta, context, scaling if factor else None)


def with_buffers(
    state: Mapping[str, Tensor], layers: int, cos: Tensor, sin: Tensor, *, mask: Tensor | None = None
) -> OrderedDict[str, Tensor]:
    """The state dict of a class whose every attention layer keeps its tables: before the layer's own weights."""
    found: OrderedDict[str, Tensor] = OrderedDict()
    mask = torch.triu(torch.ones(len(cos), len(cos)), diagonal=1) if mask is None else mask
    for name, weight in state.items():
        for layer in range(layers):
            if name == f"trf_blocks.{layer}.att.W_key.weight":
                buffers = {"mask": mask, "cos": cos, "sin": sin}
                found |= {f"trf_blocks.{layer}.att.{key}": buffer for key, buffer in buffers.items()}
        found[name] = weight
    return found


def _folder_for(model: MetaModel, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    if model.tokenizer == "tiktoken":
        small_tiktoken(folder / "tokenizer.model", RANKS)
    else:
        small_sentencepiece(folder / "tokenizer.model", PIECES)
    return folder


def saved(model: MetaModel, folder: Path, saved_object: Any, *, legacy: bool = False) -> Path:
    """The object as `model.pth` beside the tokenizer of the model."""
    torch.save(saved_object, _folder_for(model, folder) / "model.pth", _use_new_zipfile_serialization=not legacy)
    return folder / "model.pth"


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + name, weight) for name, weight in state.items())
