"""litgpt's `model_config.yaml`: a Llama among the many models that litgpt's one class can be.

Source: litgpt 0.5.9 config.py (Config), utils.py (save_config), model.py (GPT.rope_cache).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import LlamaConfig, RopeScaling
from llama_convert.convert.containers.lookalikes import START, refuse_lookalike
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.formats.size_problems import are_sizes, size_problems
from llama_convert.convert.json_files import no_numbers
from llama_convert.convert.outputs import SideFile

CONFIG = "model_config.yaml"
# What makes litgpt's class a Llama, and what its defaults would make of it: these must stand in the file.
_ARITHMETIC: Mapping[str, Any] = {
    "bias": False,
    "mlp_class_name": "LLaMAMLP",
    "norm_class_name": "RMSNorm",
    "parallel_residual": False,
    "rotary_percentage": 1.0,
}
# The same, where the default is what a Llama has: files of older versions do not have all of these.
_BY_DEFAULT: Mapping[str, Any] = {
    "attention_logit_softcapping": None,
    "attention_scores_scalar": None,
    "attn_bias": False,
    "final_logit_softcapping": None,
    "lm_head_bias": False,
    "n_expert": 0,
    "norm_1": True,
    "norm_2": True,
    "norm_qk": False,
    "post_attention_norm": False,
    "post_mlp_norm": False,
    "rope_condense_ratio": 1,
    "rope_local_base_freq": None,
    "scale_embeddings": False,
    "shared_attention_norm": False,
    "sliding_window_size": None,
}
# What versions after 0.5.9 added; it is held against the file, but not written.
_LATER: Mapping[str, Any] = {"rope_interleave": False, "latent_attention": None}
# What no Llama looks at.
_IDLE: Mapping[str, Any] = {
    "gelu_approximate": "none",
    "hf_config": {},
    "moe_intermediate_size": None,
    "n_expert_per_token": 0,
    "norm_qk_type": "default",
    "padding_multiple": 1,
    "rope_indices": None,
    "sliding_window_indices": None,
}
_SIZES = (
    "block_size",
    "head_size",
    "intermediate_size",
    "n_embd",
    "n_head",
    "n_layer",
    "n_query_groups",
    "padded_vocab_size",
)
_REALS = ("norm_eps", "rope_base")
_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len")


def config_file(config: LlamaConfig, name: str) -> SideFile:
    """The file as litgpt would write it. name: what the model calls itself; litgpt chooses the prompt by it."""
    return SideFile(CONFIG, partial(_write, config_values(config, name)))


def config_values(config: LlamaConfig, name: str) -> dict[str, Any]:
    """Every field of litgpt's Config; all rows of the vocabulary count as tokens."""
    theta = config.rope_theta
    return {
        **_ARITHMETIC,
        **_BY_DEFAULT,
        **_IDLE,
        "block_size": config.context,
        "head_size": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "n_embd": config.hidden_size,
        "n_head": config.heads,
        "n_layer": config.layers,
        "n_query_groups": config.kv_heads,
        "name": name,
        "norm_eps": config.norm_eps,
        "padded_vocab_size": config.vocab_size,
        "rope_adjustments": _adjustments(config.rope_scaling),
        "rope_base": int(theta) if theta.is_integer() else theta,
        "vocab_size": config.vocab_size,
    }


def _adjustments(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {
        "factor": scaling.factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "original_max_seq_len": scaling.original_context,
    }


def _write(values: Mapping[str, Any], path: Path) -> None:
    path.write_text("".join(_lines(values)), encoding="utf-8")


def _lines(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in sorted(values.items()):
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:\n"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    # YAML 1.1 takes 1e-05 for a text: a number with an exponent has a point as well.
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


def read_config(folder: Path) -> LlamaConfig:
    """The sizes that the file gives, with a head of its own: litgpt ties none.

    Raises CheckpointError: no such file, no YAML, another architecture, sizes that are missing or wrong.
    """
    path = folder / CONFIG
    values = _read(path)
    _refuse_foreign(path, values)
    _check_sizes(path, values)
    return LlamaConfig(
        hidden_size=values["n_embd"],
        intermediate_size=values["intermediate_size"],
        layers=values["n_layer"],
        heads=values["n_head"],
        kv_heads=values["n_query_groups"],
        head_dim=values["head_size"],
        vocab_size=values["padded_vocab_size"],
        norm_eps=values["norm_eps"],
        rope_theta=float(values["rope_base"]),
        rope_scaling=_scaling(path, values.get("rope_adjustments")),
        context=values["block_size"],
        tied=False,
    )


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        data = path.read_bytes()
        refuse_lookalike(path, data[:START], "YAML")
        values = yaml.safe_load(data)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing", advice="litgpt writes it beside lit_model.pth; copy it.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: unreadable: {reason}", advice="Copy the file again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: unreadable: it holds no names and values", advice="Copy the file again.")
    return values


def _refuse_foreign(path: Path, values: Mapping[str, Any]) -> None:
    problems = [
        f"{name} is {values.get(name)!r}, wanted {wanted!r}"
        for name, wanted in _ARITHMETIC.items()
        if values.get(name) != wanted
    ]
    problems += [
        f"{name} is {values[name]!r}, wanted {wanted!r}"
        for name, wanted in {**_BY_DEFAULT, **_LATER}.items()
        if name in values and values[name] != wanted
    ]
    if problems:
        raise CheckpointError(
            f"{path}: not the arithmetic of a Llama",
            problems=problems,
            advice="Supported are the text models Llama 1 to 3.3, Code Llama and Llama Guard 1 to 3.",
        )


def _check_sizes(path: Path, values: Mapping[str, Any]) -> None:
    if missing := [name for name in (*_SIZES, *_REALS) if values.get(name) is None]:
        raise CheckpointError(
            f"{path}: lacks {', '.join(missing)}", advice="No size is ever guessed: copy the file again."
        )
    problems = [*size_problems(values, _SIZES, _REALS, layers="n_layer")]
    heads, groups = values["n_head"], values["n_query_groups"]
    if are_sizes(heads, groups) and heads % groups:
        problems.append(f"n_head {heads} is no multiple of n_query_groups {groups}")
    if problems:
        raise CheckpointError(f"{path}: impossible sizes", problems=problems, advice="Copy the file again.")


def _scaling(path: Path, adjustments: object) -> RopeScaling | None:
    if adjustments is None:
        return None
    if not isinstance(adjustments, dict) or set(adjustments) != set(_SCALING):
        raise CheckpointError(
            f"{path}: rope_adjustments are {adjustments!r}, wanted {', '.join(_SCALING)}",
            advice="Supported is Llama 3.1's own scaling.",
        )
    if problems := list(no_numbers(adjustments, _SCALING[3:], _SCALING[:3])):
        raise CheckpointError(f"{path}: impossible rope_adjustments", problems=problems, advice="Copy the file again.")
    return RopeScaling(
        factor=adjustments["factor"],
        low_frequency_factor=adjustments["low_freq_factor"],
        high_frequency_factor=adjustments["high_freq_factor"],
        original_context=adjustments["original_max_seq_len"],
    )
