"""What becomes of a model in Meta's small files: `params.json`, the names of special tokens, what neither can hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama_convert.convert.architecture import LlamaConfig, RopeScaling
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.formats.meta_sizes import terms_for
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.versions import Evidence, Version, fitting, rope_scaling

# What Meta's code takes where params.json of Llama 1 and 2 says nothing.
_FIRST_THETA = 10000.0
# Llama 1 and 2 leave the multiplier out where nothing is stretched; from Code Llama on it is written.
_WITHOUT_PLAIN_MULTIPLIER = ("1", "2", "guard-1")


def params_json(config: LlamaConfig, version: Version, kind: TokenizerKind, shards: int) -> dict[str, Any]:
    """What params.json says, with the keys that Meta's own file of the version has.

    kind: of the tokenizer beside it. shards: where there are more than kv heads, each has a copy of one, and
    n_kv_heads counts the copies, as in the 16 files of Llama 3.1 405B.
    """
    first = kind is TokenizerKind.SENTENCEPIECE
    plain = None if version.name in _WITHOUT_PLAIN_MULTIPLIER else 1.0
    multiple_of, multiplier = terms_for(config.hidden_size, config.intermediate_size, plain=plain)
    all_heads = first and config.kv_heads == config.heads
    return {
        "dim": config.hidden_size,
        "n_layers": config.layers,
        "n_heads": config.heads,
        **({} if all_heads else {"n_kv_heads": max(config.kv_heads, shards)}),
        "vocab_size": config.vocab_size,
        "multiple_of": multiple_of,
        **({} if multiplier is None else {"ffn_dim_multiplier": multiplier}),
        "norm_eps": config.norm_eps,
        **({} if first and config.rope_theta == _FIRST_THETA else {"rope_theta": config.rope_theta}),
        **({"use_scaled_rope": True} if config.rope_scaling else {}),
    }


def misfits(source: Checkpoint, kind: TokenizerKind) -> Iterator[str]:
    """One sentence for everything of the model that Meta's format has no place for."""
    config = source.config
    if config.head_dim * config.heads != config.hidden_size:
        yield f"head_dim is {config.head_dim}, Meta's is dim / n_heads = {config.hidden_size / config.heads:g}"
    if config.rope_scaling is None:
        return
    if kind is TokenizerKind.SENTENCEPIECE:
        yield "a SentencePiece tokenizer with scaled RoPE: Meta's models have tiktoken ranks from Llama 3.1 on"
    elif config.rope_scaling != (meant := rope_scaling(_taken_as(source, kind)[0], _evidence(source, kind))):
        yield (
            f"RoPE scaling with {_in_words(config.rope_scaling)}: params.json says use_scaled_rope, "
            f"which means {_in_words(meant)}"
        )


def notes(source: Checkpoint, kind: TokenizerKind) -> Iterator[str]:
    """What only `conversion.json` says of the written model, or nothing does; one sentence each."""
    config = source.config
    version, by_itself = _taken_as(source, kind)
    assumed = rope_scaling(by_itself, _evidence(source, kind)) if config.rope_scaling else None
    if config.rope_scaling and assumed and config.rope_scaling != assumed:
        yield (
            f"params.json cannot say RoPE factor {config.rope_scaling.factor:g}: without conversion.json the files are "
            f"taken as {by_itself.title}, with factor {assumed.factor:g}. Keep it beside them, or give "
            f"--llama-version {version.name}."
        )
    if config.context != version.context:
        yield (
            f"params.json holds no context: read again, it is {version.title}'s {version.context:,} positions, "
            f"not {config.context:,}."
        )


def _taken_as(source: Checkpoint, kind: TokenizerKind) -> tuple[Version, Version]:
    """The version as which the files will be read: with conversion.json beside them, and without."""
    fits = fitting(_evidence(source, kind))
    return next((version for version in fits if version == source.version), fits[0]), fits[0]


def _evidence(source: Checkpoint, kind: TokenizerKind) -> Evidence:
    """What Meta's files say that tells versions apart: all but the factor."""
    config = source.config
    return Evidence(
        tokenizer=kind,
        scaled=config.rope_scaling is not None,
        rope_factor=None,
        rope_theta=config.rope_theta,
        norm_eps=config.norm_eps,
        hidden_size=config.hidden_size,
        layers=config.layers,
        grouped=config.kv_heads < config.heads,
        tied=config.tied,
    )


def _in_words(scaling: RopeScaling | None) -> str:
    assert scaling is not None  # of scaled models alone
    return (
        f"factor {scaling.factor:g} ({scaling.low_frequency_factor:g} to {scaling.high_frequency_factor:g}, "
        f"{scaling.original_context:,} positions)"
    )
