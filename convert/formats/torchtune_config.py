"""`torchtune_config.json`: a model's sizes as the arguments of a builder, in the form of a recipe's `model:` section.

Source: torchtune 0.6.1 models/llama2, llama3, llama3_1, llama3_2 (_component_builders.py),
models/llama3_1/_position_embeddings.py (what a scaling has besides its factor), config/_instantiate.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import LlamaConfig, RopeScaling
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.formats.size_problems import are_sizes, size_problems
from llama_convert.convert.json_files import read_object
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.versions import Version

CONFIG = "torchtune_config.json"
_COMPONENT = "_component_"
_PLAIN = ("torchtune.models.llama2.llama2", "torchtune.models.llama3.llama3")
_SCALED = "torchtune.models.llama3_1.llama3_1"
_TIED = "torchtune.models.llama3_2.llama3_2"
_SIZES = ("vocab_size", "num_layers", "num_heads", "num_kv_heads", "embed_dim", "max_seq_len", "intermediate_dim")
_REALS = ("rope_base", "norm_eps", "scale_factor")
_TIE = "tie_word_embeddings"
# What the builders are told, and what can be said with --assume where no config lies beside the weights.
ARGUMENTS = (*_SIZES, *_REALS, _TIE)
# Of Llama3ScaledRoPE only the factor is an argument; the rest no builder passes on.
_LOW, _HIGH, _CONTEXT = 1.0, 4.0, 8192
_ADVICE = "Correct the file: it has the arguments that torchtune's builder of the model takes."


def config_json(config: LlamaConfig, version: Version) -> dict[str, Any]:
    """The builder that makes this model, and its arguments.

    Raises UsageError with every reason why there is none.
    """
    if problems := list(_unfit(config)):
        raise UsageError(
            "no builder of torchtune's makes this model", problems=problems, advice="Choose another format."
        )
    scaling = config.rope_scaling
    named = _TIED if config.tied else _SCALED if scaling else _PLAIN[version.tokenizer is TokenizerKind.TIKTOKEN]
    factor = {} if named in _PLAIN else {"scale_factor": scaling.factor if scaling else 1.0}
    return {
        _COMPONENT: named,
        "vocab_size": config.vocab_size,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "num_kv_heads": config.kv_heads,
        "embed_dim": config.hidden_size,
        "max_seq_len": config.context,
        "intermediate_dim": config.intermediate_size,
        "rope_base": config.rope_theta,
        "norm_eps": config.norm_eps,
        **factor,
        **({_TIE: True} if config.tied else {}),
    }


def _unfit(config: LlamaConfig) -> Iterator[str]:
    if config.head_dim * config.heads != config.hidden_size:
        yield f"{config.heads} heads of {config.head_dim} in {config.hidden_size}: its heads divide embed_dim"
    scaling = config.rope_scaling
    if scaling and scaling != _scaling(scaling.factor):
        yield (
            f"RoPE scaling between {scaling.low_frequency_factor:g} and {scaling.high_frequency_factor:g}, made for "
            f"{scaling.original_context} positions: it knows only {_LOW:g}, {_HIGH:g} and {_CONTEXT}"
        )


def _scaling(factor: float) -> RopeScaling | None:
    if factor == 1:  # stretches by nothing
        return None
    return RopeScaling(factor=factor, low_frequency_factor=_LOW, high_frequency_factor=_HIGH, original_context=_CONTEXT)


def read_config(folder: Path, assumed: Mapping[str, str], *, stored_head: bool) -> LlamaConfig:
    """The sizes that the folder's config gives, and what the user says instead or where there is none.

    stored_head: whether the weights have an output head; it is held against a config that says so too.
    Raises CheckpointError with all that is missing or wrong.
    """
    values = _values(folder / CONFIG, assumed)
    _check(folder / CONFIG, values)
    tied = bool(values.get(_TIE, not stored_head))
    return LlamaConfig(
        hidden_size=values["embed_dim"],
        intermediate_size=values["intermediate_dim"],
        layers=values["num_layers"],
        heads=values["num_heads"],
        kv_heads=values["num_kv_heads"],
        head_dim=values["embed_dim"] // values["num_heads"],
        vocab_size=values["vocab_size"],
        norm_eps=values["norm_eps"],
        rope_theta=float(values["rope_base"]),
        rope_scaling=_scaling(float(values["scale_factor"])),
        context=values["max_seq_len"],
        tied=tied,
    )


def _values(path: Path, assumed: Mapping[str, str]) -> dict[str, Any]:
    values = read_object(path) if path.is_file() else {}
    named = values.get(_COMPONENT)
    if named in _PLAIN:  # builders that have no such argument
        values = {"scale_factor": 1, _TIE: False} | values
    elif named == _SCALED:
        values = {_TIE: False} | values
    return values | {name: _value(text) for name, text in assumed.items()}


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text  # refused as what it is


def _check(path: Path, values: Mapping[str, Any]) -> None:
    named = values.get(_COMPONENT)
    if named not in (None, *_PLAIN, _SCALED, _TIED):
        raise CheckpointError(
            f"{path}: {_COMPONENT} is {named!r}, wanted a builder of Llamas",
            advice=f"Known are {', '.join((*_PLAIN, _SCALED, _TIED))}.",
        )
    wanted = (*_SIZES, *_REALS, *([_TIE] if named == _TIED else []))
    if missing := [name for name in wanted if values.get(name) is None]:
        raise CheckpointError(
            f"{path}: {'lacks' if path.is_file() else 'no such file, and nothing else says'} {', '.join(missing)}",
            advice="No size is ever guessed: write that file with the arguments of torchtune's builder, or say "
            f"--assume {missing[0]}=VALUE and so on.",
        )
    if problems := [*_impossible(values)]:
        raise CheckpointError(f"{path}: impossible arguments", problems=problems, advice=_ADVICE)


def _impossible(values: Mapping[str, Any]) -> Iterator[str]:
    yield from size_problems(values, _SIZES, _REALS, layers="num_layers")
    if not isinstance(values.get(_TIE, False), bool):
        yield f"{_TIE} is {values[_TIE]!r}, wanted true or false"
    dim, heads, kv_heads = (values[name] for name in ("embed_dim", "num_heads", "num_kv_heads"))
    if are_sizes(dim, heads) and (dim % heads or dim // heads % 2):
        yield f"embed_dim {dim} does not divide into {heads} heads of even size"
    if are_sizes(heads, kv_heads) and heads % kv_heads:
        yield f"num_heads {heads} is no multiple of num_kv_heads {kv_heads}"
