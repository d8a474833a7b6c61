"""A Llama's sizes as GGUF keys, and its RoPE scaling as the tensor `rope_freqs.weight`.

Sources: llama.cpp convert_hf_to_gguf.py (LlamaModel), src/llama-model.cpp; gguf-py gguf/constants.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.architecture import MOST_LAYERS, LlamaConfig, RopeScaling
from llama_convert.convert.containers.gguf_values import Kind, Scalar
from llama_convert.convert.errors import CheckpointError, ForeignError
from llama_convert.convert.rope import (
    HIGH_FREQUENCY_FACTOR,
    LOW_FREQUENCY_FACTOR,
    divisors,
    frequencies,
    released_scaling,
)

ARCHITECTURE = "llama"
_SIZES = {
    "layers": "llama.block_count",
    "context": "llama.context_length",
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "heads": "llama.attention.head_count",
}
_KV_HEADS = "llama.attention.head_count_kv"
_KEY_LENGTH, _VALUE_LENGTH = "llama.attention.key_length", "llama.attention.value_length"
_ROTATED = "llama.rope.dimension_count"
_EPS = "llama.attention.layer_norm_rms_epsilon"
_THETA = "llama.rope.freq_base"
_DEFAULT_THETA = 10000.0  # what llama.cpp takes where the key is absent, as in files of Llama 1 and 2
# What only other models have: experts, or wavelengths stretched in another way. With a factor of another kind
# llama.cpp takes "linear" where no type is given.
_FOREIGN = (
    "llama.expert_count",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.rope.scaling.attn_factor",
    "llama.rope.scale_linear",
)
_TOLERANCE = 1e-4  # relative: divisors were computed in float32, with a power among the operations


def config_values(config: LlamaConfig) -> dict[str, Scalar]:
    """The sizes as llama.cpp's converter writes them; how wavelengths are stretched is not among them."""
    values = {key: Scalar(Kind.UINT32, getattr(config, field)) for field, key in _SIZES.items()}
    return values | {
        _KV_HEADS: Scalar(Kind.UINT32, config.kv_heads),
        _THETA: Scalar(Kind.FLOAT32, config.rope_theta),
        _EPS: Scalar(Kind.FLOAT32, config.norm_eps),
        _KEY_LENGTH: Scalar(Kind.UINT32, config.head_dim),
        _VALUE_LENGTH: Scalar(Kind.UINT32, config.head_dim),
        "llama.vocab_size": Scalar(Kind.UINT32, config.vocab_size),
        _ROTATED: Scalar(Kind.UINT32, config.head_dim),
    }


def read_config(
    path: Path, values: Mapping[str, Any], *, rows: int, tied: bool, stretched: NDArray[np.float32] | None
) -> LlamaConfig:
    """The sizes in a GGUF file's keys.

    rows: of the embedding. stretched: what rope_freqs holds; None without it.
    Raises CheckpointError with all that is missing or wrong, or makes it another model.
    """
    _check_sizes(path, values)
    sizes = {field: values[key] for field, key in _SIZES.items()}
    head_dim = values.get(_KEY_LENGTH) or sizes["hidden_size"] // sizes["heads"]
    theta = decimal(values.get(_THETA, _DEFAULT_THETA))
    return LlamaConfig(
        **sizes,
        kv_heads=values.get(_KV_HEADS, sizes["heads"]),
        head_dim=head_dim,
        vocab_size=rows,
        norm_eps=decimal(values[_EPS]),
        rope_theta=theta,
        rope_scaling=_scaling(path, stretched, theta, head_dim),
        tied=tied,
    )


def decimal(value: float) -> float:
    """A number that was stored in float32, as it was written before: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def refuse_foreign(path: Path, values: Mapping[str, Any]) -> None:
    """CheckpointError where the file is no model, or one of another architecture, by what it calls itself."""
    kind, architecture = values.get("general.type", "model"), values.get("general.architecture")
    if kind != "model":
        raise ForeignError(
            f"{path}: this is no model: its general.type is {kind!r:.80}",
            advice="Give the GGUF file of the text model that it belongs to.",
        )
    if architecture != ARCHITECTURE:
        raise ForeignError(
            f"{path}: general.architecture is {architecture!r:.80}, wanted {ARCHITECTURE!r}",
            advice="Supported are the text models Llama 1 to 3.3, Code Llama and Llama Guard 1 to 3.",
        )


def _check_sizes(path: Path, values: Mapping[str, Any]) -> None:
    whole = [*_SIZES.values(), *(key for key in (_KV_HEADS, _KEY_LENGTH, _ROTATED) if key in values)]
    problems = [f"{key}: missing" for key in (*_SIZES.values(), _EPS) if key not in values]
    problems += [f"{key} is {values[key]!r:.80}" for key in whole if key in values and not _is_size(values[key])]
    problems += [f"{key} is {values[key]!r:.80}" for key in (_EPS, _THETA) if not _is_positive(values.get(key, 1.0))]
    problems += [f"{key} is {values[key]!r:.80}, which no Llama has" for key in _FOREIGN if _says(values, key)]
    if not problems:
        problems = list(_misfits(values))
    if problems:
        raise CheckpointError(
            f"{path}: its keys are not those of a Llama", problems=problems, advice="Fetch or convert it again."
        )


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _is_positive(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < float("inf")


def _says(values: Mapping[str, Any], key: str) -> bool:
    return values.get(key) not in (None, 0, 1, "none")


def _misfits(values: Mapping[str, Any]) -> list[str]:
    heads, rotated = values[_SIZES["heads"]], values.get(_ROTATED)
    size = values.get(_KEY_LENGTH) or values[_SIZES["hidden_size"]] // heads
    problems = []
    if values[_SIZES["layers"]] > MOST_LAYERS:
        problems.append(f"{_SIZES['layers']} {values[_SIZES['layers']]:,} is more than any model has")
    if heads % values.get(_KV_HEADS, heads):
        problems.append(f"{heads} heads are no multiple of {values[_KV_HEADS]} kv heads")
    if rotated not in (None, size) or size % 2:
        problems.append(f"{_ROTATED} is {rotated}, wanted all {size} dimensions of a head")
    return problems


def rope_divisors(config: LlamaConfig) -> NDArray[np.float32]:
    """What each rotary frequency is divided by, (head_dim / 2,), as rope_freqs.weight holds it."""
    return divisors(config.rope_scaling, config.rope_theta, config.head_dim).astype(np.float32)


def _scaling(path: Path, stored: NDArray[np.float32] | None, theta: float, head_dim: int) -> RopeScaling | None:
    """The scaling that gives these divisors; recomputed from what is recovered, they must come out again."""
    if stored is None or (stored == 1).all():
        return None
    scaling = None
    if stored.shape == (head_dim // 2,) and np.isfinite(stored).all() and stored.min() >= 1:
        scaling = _recovered(stored.astype(np.float64), theta, head_dim)
    if scaling is None or not np.allclose(divisors(scaling, theta, head_dim), stored, rtol=_TOLERANCE, atol=0):
        raise CheckpointError(
            f"{path}: rope_freqs.weight is not Llama 3.1's scaling, for any factor or context",
            advice="Supported are Llama 3.1, 3.2, 3.3 and Guard 3, and models without scaling.",
        )
    return scaling


def _recovered(stored: NDArray[np.float64], theta: float, head_dim: int) -> RopeScaling | None:
    """The factor is the largest divisor; between one and it, a divisor tells the context trained on before."""
    factor = decimal(float(stored.max()))
    between = (stored > 1 + _TOLERANCE) & (stored < factor * (1 - _TOLERANCE))
    if not between.any():
        return released_scaling(factor)
    unchanged = (1 / stored[between] - 1 / factor) / (1 - 1 / factor)
    wavelengths = 2 * np.pi / frequencies(theta, head_dim)[between]
    contexts = wavelengths * (unchanged * (HIGH_FREQUENCY_FACTOR - LOW_FREQUENCY_FACTOR) + LOW_FREQUENCY_FACTOR)
    return released_scaling(factor, round(float(np.median(contexts))))
