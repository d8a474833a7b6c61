"""Hugging Face's files, written: safetensors shards with their index, configs, and the tokenizer's files.

JSON is written by hand, with the keys of both dialects of transformers: 5.x alone would be misread by 4.x
and mlx-lm without an error (theta 10000, no scaling). Keys: transformers configuration_llama.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import LlamaConfig, Weight
from llama_convert.convert.checkpoint import Checkpoint, TokenizerFile
from llama_convert.convert.containers.safetensors import lay_out
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.expressions import Expression, nbytes
from llama_convert.convert.formats.format import Writer
from llama_convert.convert.plan import Request, SideFile, Step, WeightFile
from llama_convert.convert.tokenizers.added import AddedToken, Vocabulary, added_tokens
from llama_convert.convert.tokenizers.chat import chat_template
from llama_convert.convert.tokenizers.huggingface import special_tokens_map, tokenizer_config
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.tokenizers.sentencepiece import SentencePieceVocabulary, read_sentencepiece
from llama_convert.convert.tokenizers.special_tokens import (
    begin_token,
    end_token,
    replace_names,
    special_tokens,
)
from llama_convert.convert.tokenizers.tiktoken import LLAMA_4_RANKS, TiktokenVocabulary, read_tiktoken
from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json
from llama_convert.convert.versions import Version

Named = tuple[Weight, str, Expression]

_SIZE_OF_CODE_LLAMA_70B = (8192, 80)
# Every token that ends an answer of an instruct model, where the version has it.
_ENDS_OF_ANSWER = {
    TokenizerKind.TIKTOKEN: ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    TokenizerKind.SENTENCEPIECE: ("</s>", "<step>"),  # the latter in Code Llama 70B
}


# --- weights -------------------------------------------------------------------------------------


def lay_out_files(tensors: Sequence[Named], shard_size: int) -> tuple[tuple[WeightFile, ...], tuple[SideFile, ...]]:
    """`model.safetensors`, or as many numbered shards as it takes, with their index.

    Tensors are dealt out in model order, none is split: a file exceeds shard_size (bytes) only where one
    tensor alone does.
    """
    shards = _deal(tensors, shard_size)
    if len(shards) == 1:
        return (_weight_file("model.safetensors", shards[0]),), ()
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    files = tuple(_weight_file(name, shard) for name, shard in zip(names, shards, strict=True))
    index = _index(files, tensors)
    return files, (_json_file("model.safetensors.index.json", index),)


def _deal(tensors: Sequence[Named], shard_size: int) -> list[list[Named]]:
    shards: list[list[Named]] = [[]]
    filled = 0
    for tensor in tensors:
        size = nbytes(tensor[2])
        if shards[-1] and filled + size > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    return shards


def _weight_file(name: str, tensors: Sequence[Named]) -> WeightFile:
    layout = lay_out([(tensor, expression.dtype, expression.shape) for _, tensor, expression in tensors])
    made = {tensor: (weight, expression) for weight, tensor, expression in tensors}
    steps = tuple(Step(made[tensor][0], tensor, made[tensor][1], offset) for tensor, offset in layout.offsets)
    return WeightFile(name, layout.header, steps, layout.size)


def _index(files: Sequence[WeightFile], tensors: Sequence[Named]) -> Mapping[str, Any]:
    total = sum(nbytes(expression) for _, _, expression in tensors)
    elements = sum(nbytes(expression) // expression.dtype.nbytes for _, _, expression in tensors)
    places = {step.name: file.name for file in files for step in file.steps}
    return {
        "metadata": {"total_size": total, "total_parameters": elements},
        "weight_map": dict(sorted(places.items())),
    }


# --- side files ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """What the side files need of the tokenizer."""

    vocabulary: Vocabulary
    special: tuple[str, ...]
    added: tuple[AddedToken, ...]

    def id(self, text: str) -> int | None:
        """The token's id, None where the vocabulary has no such token."""
        return next((token.id for token in self.added if token.text == text), None)


def side_files(source: Checkpoint, request: Request) -> tuple[tuple[SideFile, ...], tuple[str, ...]]:
    """Configs and tokenizer files for the checkpoint, and what the user should know of them.

    Raises CheckpointError: no tokenizer, a damaged one, or one whose size is not the embedding's.
    UsageError: special tokens that do not fit.
    """
    tokenizer = _tokenizer_file(source)
    tokens = _tokens(source, tokenizer, request)
    template = _template(source) if request.instruct else None
    dtype = request.dtype or source.dtype
    files = (
        _json_file("config.json", config_json(source.config, dtype, *_ends(source.version, tokens, request))),
        _json_file("generation_config.json", _generation_config(source.version, tokens, request)),
        *_tokenizer_files(source, tokens, template, request),
        *_originals(source, tokenizer),
    )
    return files, _notes(source, template, request)


def _tokenizer_file(source: Checkpoint) -> TokenizerFile:
    if source.tokenizer is None:
        raise CheckpointError(
            f"{source.path}: no tokenizer.model here or one folder above",
            advice="Copy the tokenizer.model that came with the weights into the folder.",
        )
    if source.tokenizer.kind is TokenizerKind.HUGGING_FACE:
        raise UsageError(f"{source.path}: is in the Hugging Face format already")
    return source.tokenizer


def _tokens(source: Checkpoint, tokenizer: TokenizerFile, request: Request) -> _Tokens:
    rows = source.config.vocab_size
    vocabulary: Vocabulary
    special: tuple[str, ...] = ()
    if tokenizer.kind is TokenizerKind.SENTENCEPIECE:
        vocabulary = _sentencepiece(tokenizer, request)
        found = len(vocabulary.pieces)
    else:
        ranks = read_tiktoken(tokenizer.path)
        _refuse_llama_4(tokenizer, ranks)
        vocabulary, special = ranks, _special_names(source, ranks, request)
        found = len(ranks.tokens) + len(special)
    if found != rows:
        raise CheckpointError(
            f"{tokenizer.path}: the wrong tokenizer: it has {found:,} tokens, the embedding has {rows:,} rows",
            advice="Copy the tokenizer.model that came with these weights into their folder.",
        )
    return _Tokens(vocabulary=vocabulary, special=special, added=added_tokens(vocabulary, special))


def _refuse_llama_4(tokenizer: TokenizerFile, ranks: TiktokenVocabulary) -> None:
    if len(ranks.tokens) == LLAMA_4_RANKS:
        raise CheckpointError(
            f"{tokenizer.path}: this is Llama 4's tokenizer ({LLAMA_4_RANKS:,} ranks), which is not supported",
            advice="Copy the tokenizer.model that came with these weights into their folder.",
        )


def _sentencepiece(tokenizer: TokenizerFile, request: Request) -> SentencePieceVocabulary:
    if request.special_tokens:
        raise UsageError(
            "--special-tokens: a SentencePiece tokenizer names its special tokens itself",
            advice="Leave the option out: it is for Llama 3 and later.",
        )
    return read_sentencepiece(tokenizer.path)


def _special_names(source: Checkpoint, vocabulary: TiktokenVocabulary, request: Request) -> tuple[str, ...]:
    version = source.version.name
    if request.special_tokens is None:
        return special_tokens(version)
    return replace_names(
        request.special_tokens,
        version=version,
        count=source.config.vocab_size - len(vocabulary.tokens),
        instruct=request.instruct,
        ordinary=set(vocabulary.tokens),
    )


def _template(source: Checkpoint) -> str | None:
    size = (source.config.hidden_size, source.config.layers)
    return chat_template(source.version.name, large_code=size == _SIZE_OF_CODE_LLAMA_70B)


def _ends(version: Version, tokens: _Tokens, request: Request) -> tuple[int | None, int | list[int] | None]:
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


def _generation_config(version: Version, tokens: _Tokens, request: Request) -> dict[str, Any]:
    """Sampling as Meta's own code does it by default."""
    begin, ends = _ends(version, tokens, request)
    return {"bos_token_id": begin, "do_sample": True, "eos_token_id": ends, "temperature": 0.6, "top_p": 0.9}


def _tokenizer_files(
    source: Checkpoint, tokens: _Tokens, template: str | None, request: Request
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
        _json_file("tokenizer_config.json", config),
        _json_file(
            "special_tokens_map.json", special_tokens_map(tokens.added, version=version, instruct=request.instruct)
        ),
    )


def _originals(source: Checkpoint, tokenizer: TokenizerFile) -> tuple[SideFile, ...]:
    """Meta's own small files, kept. Not at the root: llama.cpp takes a tokenizer.model there for SentencePiece."""
    kept = (source.path / "params.json", tokenizer.path)
    return tuple(SideFile(f"original/{path.name}", partial(_copy, path)) for path in kept if path.is_file())


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


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
    other = next(version for version in source.versions if version.rope_factor not in (None, scaling.factor))
    return [
        f"taken as {source.version.title}, with RoPE factor {scaling.factor:g}: no file says so, and "
        f"{other.title} has {other.rope_factor:g}. --llama-version tells."
    ]


# --- JSON ----------------------------------------------------------------------------------------


def _json_file(name: str, values: Mapping[str, Any]) -> SideFile:
    return SideFile(name, partial(_write_json, values))


def _write_json(values: Mapping[str, Any], target: Path) -> None:
    target.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


HUGGING_FACE_WRITER = Writer(lay_out=lay_out_files, side_files=side_files)
