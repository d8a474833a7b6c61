"""Hugging Face's small files: config, generation config, tokenizer, and Meta's own ones kept beside them.

JSON is written by hand, with the keys of both dialects of transformers: 5.x alone would be misread by 4.x
and mlx-lm without an error (theta 10000, no scaling). Keys: transformers configuration_llama.py.
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

from llama_convert.convert.architecture import LlamaConfig
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.json_files import json_file
from llama_convert.convert.plan import Request, SideFile
from llama_convert.convert.tokenizers.chat import chat_template
from llama_convert.convert.tokenizers.huggingface import special_tokens_map, tokenizer_config
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.tokenizers.special_tokens import begin_token, end_token
from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json
from llama_convert.convert.tokens import Tokens, open_tokens
from llama_convert.convert.versions import VERSIONS, Version

_SIZE_OF_CODE_LLAMA_70B = (8192, 80)
# Every token that ends an answer of an instruct model, where the version has it.
_ENDS_OF_ANSWER = {
    TokenizerKind.TIKTOKEN: ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    TokenizerKind.SENTENCEPIECE: ("</s>", "<step>"),  # the latter in Code Llama 70B
}


def side_files(source: Checkpoint, request: Request) -> tuple[tuple[SideFile, ...], tuple[str, ...]]:
    """Configs and tokenizer files for the checkpoint, and what the user should know of them.

    Raises what `open_tokens` raises.
    """
    tokens = open_tokens(source, request)
    template = _template(source) if request.instruct else None
    dtype = request.dtype or source.dtype
    files = (
        json_file("config.json", config_json(source.config, dtype, *_ends(source.version, tokens, request))),
        json_file("generation_config.json", _generation_config(source.version, tokens, request)),
        *_tokenizer_files(source, tokens, template, request),
        *_originals(source, tokens),
    )
    return files, _notes(source, template, request)


def _template(source: Checkpoint) -> str | None:
    size = (source.config.hidden_size, source.config.layers)
    return chat_template(source.version.name, large_code=size == _SIZE_OF_CODE_LLAMA_70B)


def _ends(version: Version, tokens: Tokens, request: Request) -> tuple[int | None, int | list[int] | None]:
    """The ids that begin a text and end an answer, as config.json has them."""
    end = end_token(version.name, instruct=request.instruct)
    texts = _ENDS_OF_ANSWER[version.tokenizer] if request.instruct else (end,)
    # Llama 3 has no <|eom_id|>: its id is a reserved token there, and is left out.
    ends = [id for text in texts if (id := tokens.id(text)) is not None]
    return tokens.id(begin_token(version.name)), (ends if len(ends) > 1 else ends[0] if ends else None)


def config_json(config: LlamaConfig, dtype: DType, begin: int | None, ends: int | list[int] | None) -> dict[str, Any]:
    """What config.json says, in both dialects.

    Top-level `rope_theta`, `rope_scaling` and `torch_dtype` are for transformers 4.x, mlx-lm and others;
    `rope_parameters` and `dtype` for 5.x. `tie_word_embeddings` is always said: readers' defaults differ.
    """
    scaling = _rope_scaling(config)
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": begin,
        "dtype": dtype.label,
        "eos_token_id": ends,
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


def _generation_config(version: Version, tokens: Tokens, request: Request) -> dict[str, Any]:
    """Sampling as Meta's own code does it by default."""
    begin, ends = _ends(version, tokens, request)
    return {"bos_token_id": begin, "do_sample": True, "eos_token_id": ends, "temperature": 0.6, "top_p": 0.9}


def _tokenizer_files(
    source: Checkpoint, tokens: Tokens, template: str | None, request: Request
) -> tuple[SideFile, ...]:
    version = source.version.name
    config = tokenizer_config(
        tokens.added,
        version=version,
        instruct=request.instruct,
        context=source.config.context,
        chat_template=template,
    )
    return (
        SideFile("tokenizer.json", partial(write_tokenizer_json, vocabulary=tokens.vocabulary, special=tokens.special)),
        json_file("tokenizer_config.json", config),
        json_file(
            "special_tokens_map.json", special_tokens_map(tokens.added, version=version, instruct=request.instruct)
        ),
    )


def _originals(source: Checkpoint, tokens: Tokens) -> tuple[SideFile, ...]:
    """Meta's own small files, kept. Not at the root: llama.cpp takes a tokenizer.model there for SentencePiece."""
    kept = (source.path / "params.json", tokens.path)
    return tuple(SideFile(f"original/{path.name}", partial(shutil.copyfile, path)) for path in kept if path.is_file())


def _notes(source: Checkpoint, template: str | None, request: Request) -> tuple[str, ...]:
    notes = []
    if request.instruct and template is None:
        notes.append(f"{source.version.title} has no chat template of a fixed form: none is written.")
    notes += _factor_note(source)
    return tuple(notes)


def _factor_note(source: Checkpoint) -> list[str]:
    """Meta's files do not hold the RoPE factor; where their sizes are no release's, the user may know better."""
    scaling, names = source.config.rope_scaling, {version.name for version in source.versions}
    if scaling is None or not {"3.1", "3.2"} <= names:
        return []
    other = VERSIONS["3.2" if scaling.factor == VERSIONS["3.1"].rope_factor else "3.1"]
    return [
        f"taken as {source.version.title}, with RoPE factor {scaling.factor:g}: no file says so, and "
        f"{other.title} has {other.rope_factor:g}. --llama-version tells."
    ]
