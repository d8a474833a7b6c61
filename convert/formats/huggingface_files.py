"""Hugging Face's small files: config, generation config, tokenizer, and Meta's own ones kept beside them.

JSON is written by hand, with the keys of both dialects of transformers: 5.x alone would be misread by 4.x
and mlx-lm without an error (theta 10000, no scaling). Keys: transformers configuration_llama.py.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import LlamaConfig
from llama_convert.convert.checkpoint import Checkpoint, Conventions
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.formats.tokenizer_edits import GENERIC_CLASS, needs_generic_class
from llama_convert.convert.formats.tokenizer_files import tokenizer_json_files
from llama_convert.convert.json_files import json_file, read_object
from llama_convert.convert.outputs import Request, SideFile
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.tokens import Tokens, open_tokens

_GENERATION = "generation_config.json"


def side_files(source: Checkpoint, request: Request) -> tuple[tuple[SideFile, ...], tuple[str, ...]]:
    """Configs and tokenizer files for the checkpoint, and what the user should know of them.

    Raises what `open_tokens` raises.
    """
    tokens = open_tokens(source, request)
    files = (
        json_file("config.json", config_json(source.config, request.dtype or source.dtype, tokens.conventions)),
        generation_config(source, tokens),
        *tokenizer_json_files(source, tokens),
        *_originals(source, tokens),
    )
    return files, _notes(source, tokens, request)


def config_json(config: LlamaConfig, dtype: DType, uses: Conventions) -> dict[str, Any]:
    """What config.json says, in both dialects.

    Top-level `rope_theta`, `rope_scaling` and `torch_dtype` are for transformers 4.x, mlx-lm and others;
    `rope_parameters` and `dtype` for 5.x. `tie_word_embeddings` is always said: readers' defaults differ.
    """
    scaling = _rope_scaling(config)
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": uses.begin,
        "dtype": dtype.label,
        "eos_token_id": _one_or_more(uses.ends),
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        **({"pad_token_id": uses.pad} if uses.pad is not None else {}),
        "pretraining_tp": 1,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_theta": config.rope_theta, **(scaling or {"rope_type": "default"})},
        "rope_scaling": scaling,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype.label,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def _rope_scaling(config: LlamaConfig) -> dict[str, Any] | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    return {
        "factor": scaling.factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "original_max_position_embeddings": scaling.original_context,
        "rope_type": "llama3",
    }


def _one_or_more(ids: tuple[int, ...]) -> int | list[int] | None:
    return list(ids) if len(ids) > 1 else ids[0] if ids else None


def generation_config(source: Checkpoint, tokens: Tokens) -> SideFile:
    """Sampling as the source says, or as Meta's own code does it by default."""
    told = source.folder / _GENERATION
    uses = tokens.conventions
    pad = {"pad_token_id": uses.pad} if uses.pad is not None else {}
    if told.is_file() and tokens.file.conventions:
        changed = tokens.change is not None and tokens.change.pad is not None
        kept = SideFile(_GENERATION, partial(shutil.copyfile, told))
        return json_file(_GENERATION, read_object(told) | pad) if changed else kept
    ends = _one_or_more(uses.ends)
    return json_file(
        _GENERATION,
        {"bos_token_id": uses.begin, "do_sample": True, "eos_token_id": ends, **pad, "temperature": 0.6, "top_p": 0.9},
    )


def _originals(source: Checkpoint, tokens: Tokens) -> tuple[SideFile, ...]:
    """Meta's own small files, kept. Not at the root: llama.cpp takes a tokenizer.model there for SentencePiece.

    Of a vocabulary that changed they are not: they would say another size, and lack its tokens.
    """
    if tokens.change and (tokens.change.tokens or tokens.rows != tokens.stored):
        return ()
    kept: list[Path] = []
    if tokens.file.kind in (TokenizerKind.TIKTOKEN, TokenizerKind.SENTENCEPIECE):
        kept = [source.folder / "params.json", tokens.file.path]
    elif tokens.file.kind is TokenizerKind.HUGGING_FACE:
        kept = [source.folder / "original" / name for name in ("params.json", "tokenizer.model")]
    return tuple(SideFile(f"original/{path.name}", partial(shutil.copyfile, path)) for path in kept if path.is_file())


def _notes(source: Checkpoint, tokens: Tokens, request: Request) -> tuple[str, ...]:
    found = []
    if request.instruct and tokens.conventions.chat_template is None:
        found.append(f"{source.version.title} has no chat template of a fixed form: none is written.")
    config = source.folder / "tokenizer_config.json"
    if tokens.file.conventions and config.is_file() and needs_generic_class(tokens, values := read_object(config)):
        found.append(
            f"tokenizer_config.json names {GENERIC_CLASS}, not {values['tokenizer_class']}, which in transformers 5 "
            "builds a tokenizer of its own, without the new tokens."
        )
    return tuple(found)
