"""What the user should know of a file of the book's, and of one that is written: one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose
from typing import Any

from llama_convert.convert.architecture import NORM_ROLES, LlamaConfig, Weight
from llama_convert.convert.assembly import widened_norms
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import DType, TensorFile
from llama_convert.convert.errors import UsageError, counted
from llama_convert.convert.formats.scratch_rope import TRAINED_CONTEXT, Tables
from llama_convert.convert.formats.scratch_sizes import NORM_EPS
from llama_convert.convert.outputs import Request
from llama_convert.convert.tokenizers.kinds import TokenizerKind

_THETA_OF_LLAMA_2 = 10000.0


def reading_notes(
    file: TensorFile, config: LlamaConfig, tables: Tables | None, assumed: Mapping[str, Any]
) -> Iterator[str]:
    """What the file's leftovers tell, and how to read it otherwise."""
    if tables is not None:
        yield from _about_tables(config, tables)
        if tables.per_layer and _is_llama_2(config) and "rotary" not in assumed:
            yield (
                "the tables att.cos and att.sin of every layer are those of the book's Llama2Model, into which its "
                "notebook put Meta's query and key rows in their own order until 2025-07-23. Taken as the class "
                "computes: if the file is older and holds Meta's weights, give --assume rotary=pairs."
            )
    elif (mask := file.tensors.get("mask")) is not None and mask.shape[0] < TRAINED_CONTEXT and config.rope_scaling:
        theta = config.rope_theta * mask.shape[0] / TRAINED_CONTEXT
        yield (
            f"the mask in the file is that of llms-from-scratch 1.0.3 to 1.0.5, which for {mask.shape[0]:,} positions "
            f"rescaled theta to {theta:g}. Taken is {config.rope_theta:g}, which Meta's weights are made for; "
            f"--assume rope_theta={theta:g} gives what that class computed."
        )


def _is_llama_2(config: LlamaConfig) -> bool:
    return config.rope_theta == _THETA_OF_LLAMA_2 and config.kv_heads == config.heads and config.rope_scaling is None


def _about_tables(config: LlamaConfig, tables: Tables) -> Iterator[str]:
    taken = (config.rope_theta, config.rope_scaling.factor if config.rope_scaling else None)
    if tables.rope is None:
        yield f"the cos and sin in the file fit nothing known; taken is {_in_words(*taken)}."
    elif tables.rope != taken:
        yield (
            f"the cos and sin in the file were made with {_in_words(*tables.rope)}; "
            f"taken is {_in_words(*taken)}, as was said."
        )
    elif whole := tables.rescaled_from:
        yield (
            f"the cos and sin in the file were made with {_in_words(*taken)}: older notebooks rescaled {whole:g} so "
            f"for {tables.context:,} positions. Taken as the class computes; what Meta's weights are made for is "
            f"--assume rope_theta={whole:g}, and the context of their release."
        )


def _in_words(theta: float, factor: float | None) -> str:
    return f"theta {theta:g}, " + (f"scaled by {factor:g}" if factor else "unscaled")


def refuse_misfits(config: LlamaConfig) -> None:
    """UsageError with every reason why no class of the book computes this model."""
    problems = []
    if not isclose(config.norm_eps, NORM_EPS, rel_tol=1e-6):
        problems.append(f"norm_eps is {config.norm_eps:g}: the classes have {NORM_EPS:g} written in them")
    if config.head_dim * config.heads != config.hidden_size:
        problems.append(
            f"{config.heads} heads of {config.head_dim} in {config.hidden_size}: the classes' heads divide emb_dim"
        )
    if problems:
        raise UsageError(
            "the book's classes cannot compute this model", problems=problems, advice="Choose another format."
        )


def writing_notes(source: Checkpoint, request: Request, dtype: DType) -> Iterator[str]:
    """What the book's classes do with the output that is not obvious, and what was rounded for them."""
    config = source.config
    if source.version.tokenizer is TokenizerKind.SENTENCEPIECE:
        unfit = "" if _is_llama_2(config) else ", and knows neither grouped queries nor another theta than 10000"
        yield (
            f"made for Llama3Model, which computes {source.version.title} as well: the book's Llama2Model wants masks "
            f"and tables in the file{unfit}."
        )
    if request.instruct or request.special_tokens:
        yield (
            "--instruct and --special-tokens leave no trace: the book's tokenizer class has special tokens and "
            "chat format written in it."
        )
    if rounded := [] if request.dtype else _rounded(source, dtype):
        yield (
            f"{counted(len(rounded), 'tensor')} of a wider type rounded to {dtype.label} ({rounded[0]}, ...): the "
            "book's classes compute in one type. --dtype float32 keeps them exactly."
        )


def _rounded(source: Checkpoint, dtype: DType) -> list[Weight]:
    """Weights that the type does not hold exactly: norms by their values, matrices by their own type."""
    others = [weight for weight in source.parts if source.dtype_of(weight) is not dtype]
    if dtype is DType.FLOAT32 or not others:
        return []
    exact = widened_norms({weight: source.parts[weight] for weight in others if weight.role in NORM_ROLES}, dtype)
    return [weight for weight in others if weight not in exact]
