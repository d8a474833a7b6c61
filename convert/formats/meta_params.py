"""`params.json`: the sizes that Meta's files cannot tell by their shapes, and refusals by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import MOST_LAYERS
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.formats.meta_sizes import intermediate_size
from llama_convert.convert.json_files import no_numbers, read_object
from llama_convert.convert.tokenizers.kinds import TokenizerKind

_REQUIRED = ("dim", "n_layers", "n_heads", "norm_eps")
_WHOLE = ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of")
_REAL = ("norm_eps", "rope_theta", "ffn_dim_multiplier")
_FOREIGN = {
    "quantization_args": "a quantised checkpoint (int4 or int8 weights)",
    "lora_args": "a quantised checkpoint with LoRA adapters",
    "vision_chunk_size": "a Llama 3.2 Vision model",
    "vision_model": "a Llama 3.2 Vision model",
    "vision_args": "a Llama 4 model",
    "moe_args": "a Llama 4 model (mixture of experts)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """What params.json says; None where it is silent.

    vocab_size, intermediate_size: claims to hold against the shapes. Meta's files for Llama 1 and 2
    say -1 for the vocabulary, which counts as silence.
    """

    path: Path
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int | None
    vocab_size: int | None
    intermediate_size: int | None
    norm_eps: float
    rope_theta: float | None
    scaled: bool

    @property
    def head_dim(self) -> int:
        """Meta's models have no head size of their own."""
        return self.hidden_size // self.heads

    @property
    def likely_tokenizer(self) -> TokenizerKind:
        """The kind to assume where there is no tokenizer file: Code Llama's theta is 1e6, Llama 3's 5e5."""
        llama_3 = self.scaled or self.rope_theta not in (None, 10000.0, 1000000.0)
        return TokenizerKind.TIKTOKEN if llama_3 else TokenizerKind.SENTENCEPIECE


def read_params(folder: Path) -> Params:
    """The folder's params.json, nested under "model" or not.

    Raises CheckpointError: missing, unparsable, without a size that shapes cannot tell, or of a model
    that is no plain Llama (which one is said).
    """
    path = folder / "params.json"
    values = _load(path)
    _refuse_foreign(path, values)
    missing = [name for name in _REQUIRED if values.get(name) is None]
    if missing:
        raise CheckpointError(
            f"{path}: lacks {', '.join(missing)}",
            advice="Download params.json again; no size is ever guessed.",
        )
    if problems := list(no_numbers(values, _WHOLE, _REAL)):
        raise CheckpointError(f"{path}: impossible sizes", problems=problems, advice="Download params.json again.")
    params = Params(
        path=path,
        hidden_size=int(values["dim"]),
        layers=int(values["n_layers"]),
        heads=int(values["n_heads"]),
        kv_heads=values.get("n_kv_heads"),
        vocab_size=values["vocab_size"] if (values.get("vocab_size") or -1) > 0 else None,
        intermediate_size=_intermediate_size(values),
        norm_eps=float(values["norm_eps"]),
        rope_theta=values.get("rope_theta"),
        scaled=bool(values.get("use_scaled_rope", False)),
    )
    _check_sizes(params)
    return params


def _load(path: Path) -> Mapping[str, Any]:
    values = read_object(path)
    values = values.get("model", values)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: unreadable: its model is no object", advice="Download params.json again.")
    return values


def _refuse_foreign(path: Path, values: Mapping[str, Any]) -> None:
    found = [what for key, what in _FOREIGN.items() if values.get(key) not in (None, -1, {}, False)]
    if found:
        raise CheckpointError(
            f"{path}: this is {found[0]}, which is not supported",
            advice="Supported are the text models Llama 1 to 3.3, Code Llama and Llama Guard 1 to 3, unquantised.",
        )


def _intermediate_size(values: Mapping[str, Any]) -> int | None:
    """What Meta's formula gives; None where it has no terms."""
    multiple = values.get("multiple_of")
    return intermediate_size(values["dim"], multiple, values.get("ffn_dim_multiplier")) if multiple else None


def _check_sizes(params: Params) -> None:
    problems = []
    if min(params.hidden_size, params.layers, params.heads) < 1:
        problems.append("dim, n_layers and n_heads must be at least 1")
    elif params.layers > MOST_LAYERS:
        problems.append(f"n_layers {params.layers} is more than any model has")
    elif params.hidden_size % params.heads or params.head_dim % 2:
        problems.append(f"dim {params.hidden_size} does not divide into {params.heads} heads of even size")
    if params.kv_heads is not None and (params.kv_heads < 1 or params.heads % params.kv_heads):
        problems.append(f"n_heads {params.heads} is no multiple of n_kv_heads {params.kv_heads}")
    if problems:
        raise CheckpointError(
            f"{params.path}: impossible sizes", problems=problems, advice="Download params.json again."
        )
