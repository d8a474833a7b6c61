"""The judges nobody here wrote: Meta's Transformer and Hugging Face's, each fed in its own convention.

Nothing here imports llama_convert: a mistake of the converter must not find its way into what judges it.
"""

from __future__ import annotations

import importlib.machinery
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tests.checkpoints import SPLIT_AXES, MetaModel

# The most that two right computations of these models in float32 may lie apart, in spreads of the logits.
GATE = 5e-5


class ColumnParallelLinear(nn.Linear):
    """split_axis: what fairscale would divide of the weight, which is (outputs, inputs)."""

    split_axis = 0

    def __init__(self, inputs: int, outputs: int, bias: bool = True, **_: Any) -> None:
        super().__init__(inputs, outputs, bias=bias)


class RowParallelLinear(ColumnParallelLinear):
    split_axis = 1


class VocabParallelEmbedding(nn.Embedding):
    split_axis = 0

    def __init__(self, rows: int, dim: int, **_: Any) -> None:
        super().__init__(rows, dim)


def install_fairscale_stub() -> None:
    """Stand in for fairscale, which has no wheel: with one rank its parallel layers are the plain ones."""
    if "fairscale" in sys.modules:
        return

    parallel = "fairscale.nn.model_parallel"
    for name in ("fairscale", "fairscale.nn", parallel, f"{parallel}.initialize", f"{parallel}.layers"):
        module = ModuleType(name)
        # find_spec, with which other libraries ask for fairscale, raises on a module without a spec
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        sys.modules[name] = module
    initialize, layers = sys.modules[f"{parallel}.initialize"], sys.modules[f"{parallel}.layers"]
    initialize.get_model_parallel_world_size = lambda: 1
    initialize.get_model_parallel_rank = lambda: 0
    for layer in (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding):
        setattr(layers, layer.__name__, layer)


def meta_transformer(model: MetaModel, positions: int, *, rope_factor: float | None = None) -> nn.Module:
    """Meta's own Transformer, in float32, with the weights as stored.

    positions: the longest prompt it must take.
    rope_factor: None takes the one of the model's version. Meta's code knows only 8, whereas Llama 3.2 was
        trained with 32.
    """
    install_fairscale_stub()
    from llama_models.llama3.args import ModelArgs
    from llama_models.llama3.model import Transformer

    args = ModelArgs(
        **{
            "rope_theta": 10000.0,  # what Llama 1 and 2 leave out; the default of ModelArgs is Llama 3's
            **model.params,
            "vocab_size": model.vocab,
            "max_batch_size": 1,
            "max_seq_len": positions,
        }
    )
    with _rope_scaling(model.rope_factor if rope_factor is None else rope_factor):
        transformer = Transformer(args)
    weights = {name: weight.float() for name, weight in model.weights.items() if name != "rope.freqs"}
    transformer.load_state_dict(weights, strict=True)  # with fairscale, what is not loaded is uninitialised
    return transformer


def meta_logits(model: MetaModel, tokens: Sequence[int] | Tensor, *, rope_factor: float | None = None) -> Tensor:
    """Logits of meta_transformer at every position: float32, (positions, vocab)."""
    batch = torch.as_tensor(tokens, dtype=torch.long).reshape(1, -1)
    transformer = meta_transformer(model, batch.shape[1], rope_factor=rope_factor)
    return transformer(batch, 0)[0].clone()  # it comes out of inference mode: only a clone can be used freely


def exact_angles(model: MetaModel, positions: Sequence[int]) -> Tensor:
    """Radians by which each pair turns at each position, float64: by Meta's formula, and with its scaling.

    Meta and transformers round angles to float32; at 8,192 positions that alone moves logits by 1e-3.
    """
    from llama_models.llama3 import model as meta

    exponents = torch.arange(0, model.head_dim, 2, dtype=torch.float64) / model.head_dim
    frequencies = 1.0 / model.params.get("rope_theta", 10000.0) ** exponents
    if model.params.get("use_scaled_rope"):
        with _rope_scaling(model.rope_factor):
            frequencies = meta.apply_scaling(frequencies)
    return torch.outer(torch.tensor(positions, dtype=torch.float64), frequencies)


def meta_logits_at(model: MetaModel, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
    """As meta_logits, with gaps between the positions and angles that are not rounded."""
    transformer = meta_transformer(model, len(tokens))
    angles = exact_angles(model, positions)
    transformer.freqs_cis = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
    return transformer(torch.as_tensor(tokens, dtype=torch.long).reshape(1, -1), 0)[0].clone()


@contextmanager
def _rope_scaling(factor: float) -> Iterator[None]:
    """Put another factor into Meta's frequency scaling, which has 8 written in it."""
    from llama_models.llama3 import model as meta

    original = meta.apply_scaling

    def apply_scaling(freqs: Tensor) -> Tensor:
        context, low, high = 8192, 1.0, 4.0
        wavelengths = 2 * math.pi / freqs
        smooth = ((context / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
        return (1 - smooth) * freqs / factor + smooth * freqs

    if factor != 8.0:
        meta.apply_scaling = apply_scaling
    try:
        yield
    finally:
        meta.apply_scaling = original


def transformers_logits(folder: Path, tokens: Sequence[int] | Tensor) -> Tensor:
    """Logits of transformers on a local Hugging Face folder, float32, eager attention: (positions, vocab)."""
    with torch.no_grad():
        return transformers_model(folder)(torch.as_tensor(tokens, dtype=torch.long).reshape(1, -1)).logits[0]


def transformers_model(folder: Path) -> Any:
    """LlamaForCausalLM of the folder.

    Fails where the folder lacks a tensor or holds one too many: transformers would fill the gap at random.
    """
    from transformers import LlamaForCausalLM

    model, loading = LlamaForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,  # at loading: a later .to() would round the rotary frequencies as well
        attn_implementation="eager",
        local_files_only=True,
        output_loading_info=True,
    )
    wrong = {kind: names for kind, names in loading.items() if names}
    assert not wrong, f"{folder}: transformers does not find its tensors: {wrong}"
    return model


def transformers_logits_at(folder: Path, tokens: Sequence[int], angles: Tensor) -> Tensor:
    """As transformers_logits, with these angles, (positions, head_dim / 2), once its own are seen to mean the same."""
    model = transformers_model(folder)
    rotary = model.model.rotary_emb
    positions = angles[:, 0]  # the first frequency is 1
    torch.testing.assert_close(torch.outer(positions, rotary.inv_freq.double()), angles, rtol=1e-6, atol=0)
    both = torch.cat((angles, angles), dim=-1).unsqueeze(0)
    rotary.forward = lambda x, position_ids: (both.cos().to(x), both.sin().to(x))
    with torch.no_grad():
        return model(torch.as_tensor(tokens, dtype=torch.long).reshape(1, -1)).logits[0]


def relative_difference(reference: Tensor, other: Tensor) -> float:
    """Largest difference at any position and token, in spreads of the reference; a NaN makes it infinite."""
    assert reference.shape == other.shape, f"{tuple(reference.shape)} against {tuple(other.shape)}"
    reference, other = reference.double(), other.double()
    difference = ((reference - other).abs().max() / reference.std()).item()
    return difference if math.isfinite(difference) else math.inf


def random_tokens(vocab: int, positions: int, *, seed: int = 0) -> Tensor:
    return torch.randint(vocab, (positions,), generator=torch.Generator().manual_seed(seed))


def merge_shards(folder: Path, *, version: str | None = None) -> MetaModel:
    """Read a Meta folder as one model: each tensor whole, copies of key-value heads left as stored.

    The split of the embedding is read from its shape: full rows mean that rows were split.
    """
    params = json.loads((folder / "params.json").read_text())
    params = params.get("model", params)
    shards = [torch.load(path, weights_only=True) for path in sorted(folder.glob("consolidated.*.pth"))]
    weights = {name: _merge([shard[name] for shard in shards], name, params["dim"]) for name in shards[0]}
    return MetaModel(params=params, weights=weights, version=version)


def _merge(parts: list[Tensor], name: str, dim: int) -> Tensor:
    module = name.split(".")[-2]
    if module == "tok_embeddings":
        return torch.cat(parts, dim=0 if parts[0].shape[1] == dim else 1)
    if module in SPLIT_AXES:
        return torch.cat(parts, dim=SPLIT_AXES[module])
    assert all(torch.equal(parts[0], part) for part in parts), f"{name} differs between shards"
    return parts[0]
