"""Hugging Face's format: `config.json`, `model*.safetensors` with an index, `tokenizer.json`.

Sources: transformers models/llama (names, rotate_half), configuration_llama.py (both dialects of RoPE keys).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import MOST_LAYERS, LlamaConfig, Role, RopeScaling, Rotary, Weight, weights
from llama_convert.convert.blocks import same
from llama_convert.convert.checkpoint import Checkpoint, Parts, TokenizerFile
from llama_convert.convert.containers.safetensors import read_safetensors
from llama_convert.convert.containers.slices import FLOATS, LocalFile, TensorFile
from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.formats.format import Format, Writer
from llama_convert.convert.formats.huggingface_files import side_files
from llama_convert.convert.formats.huggingface_weights import lay_out_files
from llama_convert.convert.json_files import no_numbers, read_object
from llama_convert.convert.reading import collect
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.versions import Evidence, confirm, fitting

_INDEX = "model.safetensors.index.json"
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


def recognises(folder: Path) -> bool:
    """Whether the folder holds safetensors weights in the way of Hugging Face."""
    return (folder / "config.json").exists() and any(folder.glob("*.safetensors*"))


def open_huggingface(folder: Path, llama_version: str | None) -> Checkpoint:
    """The checkpoint in a Hugging Face folder, from its JSON files and safetensors headers.

    Raises CheckpointError: another architecture, quantised weights, missing sizes, missing, unknown or
    misshapen tensors, files that the index names but the folder lacks.
    """
    values = read_object(folder / "config.json")
    _refuse_foreign(folder, values)
    files = _open_files(folder)
    found = {name: tensor for file in files for name, tensor in file.tensors.items()}
    # Where config.json does not tie the head, transformers fills a missing one with random numbers.
    tied = values.get("tie_word_embeddings") is True and HUGGING_FACE.names[Role.HEAD] not in found
    config = _config(folder, values, tied)
    parts = _parts(folder, files, config)
    _check_head(folder, values, parts)
    tokenizer = _tokenizer(folder)
    evidence = _evidence(config, tokenizer)
    return Checkpoint(
        path=folder,
        format=HUGGING_FACE,
        config=config,
        versions=confirm(llama_version, fitting(evidence), evidence),
        parts=parts,
        files=tuple(files),
        tokenizer=tokenizer,
        dtype=parts[Weight(Role.TOKENS)].slices[0].dtype,
    )


def _refuse_foreign(folder: Path, values: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    if values.get("model_type") != "llama":
        raise CheckpointError(
            f"{path}: model_type is {values.get('model_type')!r}, wanted 'llama'",
            advice="Supported are the text models Llama 1 to 3.3, Code Llama and Llama Guard 1 to 3.",
        )
    if quantised := values.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise CheckpointError(
            f"{path}: quantised weights ({method}) are not supported",
            advice="Use the unquantised release of this model (bf16).",
        )
    problems = [
        f"{name} is {values[name]!r}, wanted {wanted!r}"
        for name, wanted in _FIXED.items()
        if values.get(name) not in (None, wanted)
    ]
    if problems:
        raise CheckpointError(
            f"{path}: not the arithmetic of a Llama",
            problems=problems,
            advice="Supported are the text models Llama 1 to 3.3, Code Llama and Llama Guard 1 to 3.",
        )


def _open_files(folder: Path) -> list[TensorFile]:
    names = _file_names(folder / _INDEX)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {counted(len(missing), 'weight file')} of {len(names)} missing",
            problems=missing,
            advice="Download the missing files into the same folder.",
        )
    return collect([lambda name=name: read_safetensors(LocalFile(folder / name)) for name in names])  # type: ignore[misc]


def _file_names(index: Path) -> list[str]:
    if not index.exists():
        return ["model.safetensors"]
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index}: has no weight_map from tensors to files", advice="Download it again.")
    return sorted(set(places.values()))


def _config(folder: Path, values: Mapping[str, Any], tied: bool) -> LlamaConfig:
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
    problems = [*no_numbers(values, _WHOLE, ("rms_norm_eps",)), *no_numbers(rope, (), ("rope_theta", *_SCALING))]
    if not problems:
        problems = [
            f"{name} must be at least 1" for name in _WHOLE if values.get(name) is not None and values[name] < 1
        ]
        if values["num_hidden_layers"] > MOST_LAYERS:
            problems.append(f"num_hidden_layers {values['num_hidden_layers']} is more than any model has")
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


def _parts(folder: Path, files: list[TensorFile], config: LlamaConfig) -> dict[Weight, Parts]:
    found = {name: tensor for file in files for name, tensor in file.tensors.items()}
    expected = {HUGGING_FACE.name_of(weight): weight for weight in weights(config)}
    problems = [f"missing  {name}" for name in expected if name not in found]
    problems += [f"unknown  {name}" for name in found if name not in expected and not HUGGING_FACE.ignores(name)]
    problems += [
        f"shape    {name}: file has {found[name].shape}, config.json says {config.shape(weight.role)}"
        for name, weight in expected.items()
        if name in found and found[name].shape != config.shape(weight.role)
    ]
    problems += [
        f"dtype    {name} is {found[name].dtype.label}, wanted {' or '.join(dtype.label for dtype in FLOATS)}"
        for name in expected
        if name in found and found[name].dtype not in FLOATS
    ]
    if problems:
        raise CheckpointError(
            f"{folder}: this is not a complete Hugging Face checkpoint ({counted(len(problems), 'problem')})",
            problems=problems,
            advice="Are the weights and config.json of the same model?",
        )
    return {weight: Parts((found[name],), None) for name, weight in expected.items()}


def _check_head(folder: Path, values: Mapping[str, Any], parts: Mapping[Weight, Parts]) -> None:
    """Readers take the embedding for the head where config.json says so, whatever head is stored."""
    tokens, head = parts[Weight(Role.TOKENS)], parts.get(Weight(Role.HEAD))
    if head and values.get("tie_word_embeddings") and not same(tokens.whole(), head.whole()):
        raise CheckpointError(
            f"{folder / 'config.json'}: tie_word_embeddings is true, but lm_head.weight is not the embedding",
            advice="Set it to false, or remove the head that does not belong there.",
        )


def _tokenizer(folder: Path) -> TokenizerFile | None:
    path = folder / "tokenizer.json"
    return TokenizerFile(TokenizerKind.HUGGING_FACE, path) if path.is_file() else None


def _evidence(config: LlamaConfig, tokenizer: TokenizerFile | None) -> Evidence:
    llama_3 = config.rope_scaling is not None or config.rope_theta not in (10000.0, 1000000.0)
    return Evidence(
        tokenizer=TokenizerKind.TIKTOKEN if llama_3 else TokenizerKind.SENTENCEPIECE,
        scaled=config.rope_scaling is not None,
        rope_theta=config.rope_theta,
        norm_eps=config.norm_eps,
        hidden_size=config.hidden_size,
        layers=config.layers,
        grouped=config.kv_heads != config.heads,
        tied=config.tied,
    )


HUGGING_FACE = Format(
    name="hf",
    title="Hugging Face safetensors",
    rotary=Rotary.HALVES,
    names={
        Role.TOKENS: "model.embed_tokens.weight",
        Role.ATTENTION_NORM: "model.layers.{layer}.input_layernorm.weight",
        Role.QUERY: "model.layers.{layer}.self_attn.q_proj.weight",
        Role.KEY: "model.layers.{layer}.self_attn.k_proj.weight",
        Role.VALUE: "model.layers.{layer}.self_attn.v_proj.weight",
        Role.ATTENTION_OUT: "model.layers.{layer}.self_attn.o_proj.weight",
        Role.FFN_NORM: "model.layers.{layer}.post_attention_layernorm.weight",
        Role.GATE: "model.layers.{layer}.mlp.gate_proj.weight",
        Role.UP: "model.layers.{layer}.mlp.up_proj.weight",
        Role.DOWN: "model.layers.{layer}.mlp.down_proj.weight",
        Role.FINAL_NORM: "model.norm.weight",
        Role.HEAD: "lm_head.weight",
    },
    ignored=("model.layers.{layer}.self_attn.rotary_emb.inv_freq",),
    recognises=recognises,
    open=open_huggingface,
    writer=Writer(lay_out=lay_out_files, side_files=side_files),
)
