"""Meta's format written: every weight cut for its shards, each shard laid out as torch.save would write it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llama_convert.convert.architecture import LlamaConfig, Role, Weight
from llama_convert.convert.checklist import write_checklist
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.errors import UsageError, counted
from llama_convert.convert.expressions import Expression, columns, rows
from llama_convert.convert.format import Format
from llama_convert.convert.formats.meta_files import misfits, notes, params_json
from llama_convert.convert.formats.meta_shards import AXES
from llama_convert.convert.formats.pth_files import pth_file
from llama_convert.convert.formats.tokenizer_files import tokenizer_kind, tokenizer_model_files
from llama_convert.convert.json_files import json_file
from llama_convert.convert.outputs import Output, Request, SideFile, Tensor, WeightFile
from llama_convert.convert.plan import tensors
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.tokens import open_tokens

_MOST_SHARDS = 99  # their names have two digits
_ATTENTION = (Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION_OUT)
_LAYER_NORMS = (Role.ATTENTION_NORM, Role.FFN_NORM)
_KV_ROLES = (Role.KEY, Role.VALUE)


def write_meta(form: Format, source: Checkpoint, request: Request) -> Output:
    """The checkpoint as Meta's folder: shards, params.json, tokenizer.model, and digests of them all.

    Raises UsageError with everything that does not fit the format or the number of shards, and what the
    tokenizer's files raise.
    """
    tokens = open_tokens(source, request)
    shards = 1 if request.shards is None else request.shards
    kind = tokenizer_kind(tokens)
    _check(source, kind, shards)
    tokenizer, tokenizer_notes = tokenizer_model_files(source, tokens)
    return Output(
        files=lay_out_shards(tensors(source, form, request), source.config, kind, shards),
        side_files=(
            json_file("params.json", params_json(source.config, source.version, kind, shards)),
            *tokenizer,
            SideFile("checklist.chk", write_checklist, late=True),
        ),
        notes=(*notes(source, kind), *tokenizer_notes),
    )


def lay_out_shards(
    made: Sequence[Tensor], config: LlamaConfig, kind: TokenizerKind, shards: int
) -> tuple[WeightFile, ...]:
    """`consolidated.NN.pth` for every shard, each with its part of every tensor.

    kind: of the tokenizer; it tells on which axis Meta's code of the time divides the embedding, and the order.
    """
    places = {weight: place for place, weight in enumerate(_order(config, kind))}
    ordered = sorted(made, key=lambda tensor: places[tensor.weights[0]])
    return tuple(_shard(ordered, config, kind, rank, shards) for rank in range(shards))


def _check(source: Checkpoint, kind: TokenizerKind, shards: int) -> None:
    foreign = list(misfits(source, kind))
    problems = [*foreign, *(f"--shards {shards}: {problem}" for problem in _uneven(source.config, shards))]
    if problems:
        possible = [str(number) for number in range(1, _MOST_SHARDS + 1) if not any(_uneven(source.config, number))]
        raise UsageError(
            f"{source.path}: this cannot be written in Meta's format ({counted(len(problems), 'problem')})",
            problems=problems,
            advice="Convert to hf, which can hold it." if foreign else f"Possible are {', '.join(possible)} shards.",
        )


def _uneven(config: LlamaConfig, shards: int) -> Iterator[str]:
    """What cannot be dealt out evenly to so many shards. More shards than kv heads have copies of them."""
    if not 1 <= shards <= _MOST_SHARDS:
        yield f"there can be 1 to {_MOST_SHARDS}"
        return
    sizes = {
        "heads": config.heads,
        "rows of the feed-forward layers": config.intermediate_size,
        "rows of the vocabulary": config.vocab_size,
    }
    yield from (f"{size:,} {what} cannot be dealt out evenly" for what, size in sizes.items() if size % shards)
    if config.kv_heads % shards and shards % config.kv_heads:
        yield f"{config.kv_heads} kv heads cannot be dealt out evenly, nor copied equally often"


def _order(config: LlamaConfig, kind: TokenizerKind) -> Iterator[Weight]:
    """The order of the names in Meta's own files, by published listings of Llama 2 70B's and Llama 3 8B's.

    Where Llama 3's final norm and head stand is not in the listing: the order is that of its modules.
    """
    first = kind is TokenizerKind.SENTENCEPIECE
    ends = (Weight(Role.FINAL_NORM), Weight(Role.HEAD))
    matrices = (Role.GATE, Role.DOWN, Role.UP) if first else (Role.GATE, Role.UP, Role.DOWN)
    yield Weight(Role.TOKENS)
    yield from ends if first else ()
    yield from (
        Weight(role, layer) for layer in range(config.layers) for role in (*_ATTENTION, *matrices, *_LAYER_NORMS)
    )
    yield from () if first else ends


def _shard(ordered: Sequence[Tensor], config: LlamaConfig, kind: TokenizerKind, rank: int, shards: int) -> WeightFile:
    parts = [replace(tensor, expression=_part(tensor, config, _axis(tensor, kind), rank, shards)) for tensor in ordered]
    return pth_file(f"consolidated.{rank:02}.pth", parts)


def _axis(tensor: Tensor, kind: TokenizerKind) -> int | None:
    """What the shards divide; None for norms, which every shard holds whole."""
    role = tensor.weights[0].role
    if role is Role.TOKENS:
        return 1 if kind is TokenizerKind.SENTENCEPIECE else 0
    return AXES.get(role)


def _part(tensor: Tensor, config: LlamaConfig, axis: int | None, rank: int, shards: int) -> Expression:
    """What one shard holds of a tensor."""
    whole = tensor.expression
    if axis is None:
        return whole
    if tensor.weights[0].role in _KV_ROLES:
        first = rank * config.kv_heads // shards  # for several shards the same one where there are fewer
        last = first + max(config.kv_heads // shards, 1)
        return rows(whole, first * config.head_dim, last * config.head_dim)
    size = whole.shape[axis] // shards
    return (columns if axis else rows)(whole, rank * size, (rank + 1) * size)
