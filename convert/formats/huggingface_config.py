"""`config.json`: a Llama's sizes in either dialect of transformers, and refusals by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import LlamaConfig, RopeScaling
from llama_convert.convert.errors import CheckpointError, ForeignError
from llama_convert.convert.formats.size_problems import size_problems
from llama_convert.convert.json_files import no_numbers

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "rms_norm_eps",
)
_WHOLE = (*_SIZES[:-1], "num_key_value_heads", "head_dim", "max_position_embeddings")
_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# What every Llama has, and what another value would change in the forward pass.
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def refuse_foreign(folder: Path, values: Mapping[str, Any]) -> None:
    """CheckpointError where config.json is of another architecture, or of a Llama with other arithmetic."""
    path = folder / "config.json"
    if values.get("model_type") != "llama":
        raise ForeignError(
            f"{path}: model_type is {values.get('model_type')!r}, wanted 'llama'",
            advice="Supported are the text models Llama 1 to 3.3, Code Llama and Llama Guard 1 to 3.",
        )
    problems = [
        f"{name} is {values[name]!r}, wanted {wanted!r}"
        for name, wanted in _FIXED.items()
        if values.get(name) not in (None, wanted)
    ]
    if problems:
        raise ForeignError(
            f"{path}: not the arithmetic of a Llama",
            problems=problems,
            advice="Supported are the text models Llama 1 to 3.3, Code Llama and Llama Guard 1 to 3.",
        )


def read_config(folder: Path, values: Mapping[str, Any], *, tied: bool) -> LlamaConfig:
    """The sizes that config.json gives, in whichever dialect. CheckpointError with all that are missing or wrong."""
    rope = _rope(folder, values)
    _check_sizes(folder, values, rope)
    heads = values["num_attention_heads"]
    return LlamaConfig(
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        layers=values["num_hidden_layers"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        vocab_size=values["vocab_size"],
        norm_eps=values["rms_norm_eps"],
        rope_theta=rope.get("rope_theta") or 10000.0,
        rope_scaling=_scaling(folder, rope),
        context=values.get("max_position_embeddings") or 2048,
        tied=tied,
    )


def _check_sizes(folder: Path, values: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    missing = [name for name in _SIZES if values.get(name) is None]
    if missing:
        raise CheckpointError(
            f"{path}: lacks {', '.join(missing)}",
            advice="No size is ever guessed: fetch it again.",
        )
    problems = [
        *size_problems(values, _WHOLE, ("rms_norm_eps",), layers="num_hidden_layers"),
        *no_numbers(rope, (), ("rope_theta", *_SCALING)),
    ]
    if problems:
        raise CheckpointError(f"{path}: impossible sizes", problems=problems, advice="Download it again.")


def _rope(folder: Path, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Transformers 5 writes rope_parameters, which wins where both are given; 4.x two keys of its own."""
    found: dict[str, Any] = {"rope_theta": values.get("rope_theta")}
    for name in ("rope_scaling", "rope_parameters"):
        value = values.get(name) or {}
        if not isinstance(value, dict):
            raise CheckpointError(f"{folder / 'config.json'}: {name} is no object", advice="Download it again.")
        found |= value
    return found


def _scaling(folder: Path, rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise CheckpointError(
            f"{folder / 'config.json'}: RoPE scaling of type {kind!r} is not supported",
            advice="Supported is Llama 3.1's own, 'llama3'.",
        )
    missing = [name for name in _SCALING if rope.get(name) is None]
    if missing:
        raise CheckpointError(
            f"{folder / 'config.json'}: the RoPE scaling lacks {', '.join(missing)}", advice="Download it again."
        )
    return RopeScaling(
        factor=rope["factor"],
        low_frequency_factor=rope["low_freq_factor"],
        high_frequency_factor=rope["high_freq_factor"],
        original_context=rope["original_max_position_embeddings"],
    )
