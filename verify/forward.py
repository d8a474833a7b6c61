"""A Llama, run as its files lie: the reference that both sides of a comparison go through.

Each checkpoint runs in its own convention: its rotary order, its config, its model-parallel shards. Weights
are neither joined nor reordered first: a mistake in how the converter does that would cancel itself out here.

Shapes: T positions, D hidden size; heads are (heads, T, head_dim). Sources: meta-llama/llama-models
models/llama3/model.py (pairs, scaling, shards), huggingface/transformers models/llama/modeling_llama.py (halves).
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from llama_convert.convert.architecture import LlamaConfig, Role, Rotary, Weight
from llama_convert.convert.checkpoint import Checkpoint, Parts
from llama_convert.convert.errors import UsageError
from llama_convert.verify.reading import Piece, read, row_blocks

# Gives a part of a weight in the type to compute in.
Load: TypeAlias = Callable[[Weight, Piece], Tensor]
Rotate: TypeAlias = Callable[[Tensor], Tensor]


def load_as(compute: torch.dtype) -> Load:
    """Weights read from disk whenever they are used: one part of one weight in memory at a time."""
    return lambda weight, tensor: read(tensor).to(compute)


def kept(load: Load) -> Load:
    """The same weights, each read once and then held: for models that fit into memory."""
    return functools.cache(load)


FLOAT32 = load_as(torch.float32)
FLOAT64 = load_as(torch.float64)


def logits(
    checkpoint: Checkpoint, tokens: Sequence[int], load: Load = FLOAT32, *, positions: Sequence[int] | None = None
) -> Tensor:
    """The model's logits after each of the tokens, (positions, vocab), in the type that `load` gives.

    positions: those to give, -1 the last; None for all. No token is put in front.
    Raises UsageError for a token that the vocabulary does not have.
    Cost: every weight read once; the largest part of one in memory, and attention scores, heads x T x T.
    """
    (state,) = deque(hidden_states(checkpoint, tokens, load), maxlen=1)
    return head(checkpoint, state if positions is None else state[list(positions)], load)


def hidden_states(checkpoint: Checkpoint, tokens: Sequence[int], load: Load = FLOAT32) -> Iterator[Tensor]:
    """The residual stream, (T, D): the embedded tokens first, then what leaves each layer."""
    state = _embed(checkpoint, tokens, load)
    yield state
    model = _Model(checkpoint, load, rotation(checkpoint, len(tokens)))
    for layer in range(checkpoint.config.layers):
        state = state + _sum_of_shards(_attention, model, state, layer)
        state = state + _sum_of_shards(_feed_forward, model, state, layer)
        yield state


def head(checkpoint: Checkpoint, state: Tensor, load: Load = FLOAT32) -> Tensor:
    """Logits of the last layer's output, (positions, D) -> (positions, vocab); every shard has some of the rows."""
    model = _Model(checkpoint, load, rotate=lambda heads: heads)
    stored = Weight(Role.HEAD) if Weight(Role.HEAD) in checkpoint.parts else Weight(Role.TOKENS)
    columns = []
    for rank, tensor in enumerate(checkpoint.parts[stored].pieces):
        normed = _normed(state, model.part(Role.FINAL_NORM, None, rank), checkpoint.config)
        columns += [normed @ load(stored, rows).T for rows in row_blocks(tensor)]
    return torch.cat(columns, dim=-1)


def frequencies(config: LlamaConfig) -> Tensor:
    """Radians by which each rotated pair turns from one position to the next, (head_dim / 2,), float64.

    Where the wavelengths are stretched: those longer than the original context divided by
    low_frequency_factor fully, those shorter than it divided by high_frequency_factor not at all.
    """
    found = config.rope_theta ** -(torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return found
    turns = scaling.original_context * found / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    unchanged = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return found * unchanged + found / scaling.factor * (1 - unchanged)


def rotation(checkpoint: Checkpoint, positions: int) -> Rotate:
    """Turns heads, (heads, T, head_dim), by their positions, the pairs lying as this format lays them.

    Angles are computed in float64, so that what rounding adds does not grow with the position.
    """
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies(checkpoint.config))
    return functools.partial(_turn_pairs if checkpoint.rotary is Rotary.PAIRS else _turn_halves, angles)


def _turn_pairs(angles: Tensor, heads: Tensor) -> Tensor:
    """Rows 2i and 2i+1 are one complex number."""
    turn = torch.polar(torch.ones_like(angles), angles).to(heads.dtype.to_complex())
    numbers = torch.view_as_complex(torch.unflatten(heads, -1, (-1, 2)).contiguous())
    return torch.view_as_real(numbers * turn).flatten(-2)


def _turn_halves(angles: Tensor, heads: Tensor) -> Tensor:
    """Rows i and i + head_dim / 2 are the two coordinates."""
    cosines, sines = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    x, y = heads.chunk(2, dim=-1)
    return torch.cat((x * cosines - y * sines, y * cosines + x * sines), dim=-1)


@dataclass(frozen=True, slots=True)
class _Model:
    checkpoint: Checkpoint
    load: Load
    rotate: Rotate

    def part(self, role: Role, layer: int | None, rank: int) -> Tensor:
        """One shard's part of a weight, as it is stored there."""
        weight = Weight(role, layer)
        return self.load(weight, self.checkpoint.parts[weight].pieces[rank])


def _sum_of_shards(
    block: Callable[[_Model, Tensor, int, int], Tensor], model: _Model, state: Tensor, layer: int
) -> Tensor:
    """What Meta's row-parallel layers do between machines: each shard's share of the output, added up."""
    shards = len(model.checkpoint.parts[Weight(Role.QUERY, layer)].pieces)
    return functools.reduce(torch.add, (block(model, state, layer, rank) for rank in range(shards)))


def _attention(model: _Model, state: Tensor, layer: int, rank: int) -> Tensor:
    """One shard's heads, with the key and value heads it stores itself."""
    config = model.checkpoint.config
    normed = _normed(state, model.part(Role.ATTENTION_NORM, layer, rank), config)
    queries, keys, values = (
        torch.unflatten(normed @ model.part(role, layer, rank).T, -1, (-1, config.head_dim)).transpose(0, 1)
        for role in (Role.QUERY, Role.KEY, Role.VALUE)
    )
    group = queries.shape[0] // keys.shape[0]
    keys, values = model.rotate(keys).repeat_interleave(group, 0), values.repeat_interleave(group, 0)
    mixed = _attend(model.rotate(queries), keys, values)
    return mixed.transpose(0, 1).flatten(1) @ model.part(Role.ATTENTION_OUT, layer, rank).T


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Every position looks at itself and those before it."""
    scores = queries @ keys.transpose(1, 2) / math.sqrt(queries.shape[-1])
    later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ values


def _feed_forward(model: _Model, state: Tensor, layer: int, rank: int) -> Tensor:
    normed = _normed(state, model.part(Role.FFN_NORM, layer, rank), model.checkpoint.config)
    gate = torch.nn.functional.silu(normed @ model.part(Role.GATE, layer, rank).T)
    up = normed @ model.part(Role.UP, layer, rank).T
    return (gate * up) @ model.part(Role.DOWN, layer, rank).T


def _normed(state: Tensor, weight: Tensor, config: LlamaConfig) -> Tensor:
    return state * torch.rsqrt(state.square().mean(-1, keepdim=True) + config.norm_eps) * weight


def _embed(checkpoint: Checkpoint, tokens: Sequence[int], load: Load) -> Tensor:
    """(T, D). Only the rows of these tokens are read."""
    unknown = [token for token in tokens if not 0 <= token < checkpoint.config.vocab_size]
    if unknown or not tokens:
        raise UsageError(
            f"{checkpoint.path}: no token {unknown[0]}" if unknown else "No tokens, so there are no logits",
            advice=f"Ids go from 0 to {checkpoint.config.vocab_size - 1}.",
        )
    weight = Weight(Role.TOKENS)
    rows = {
        token: torch.cat([load(weight, piece) for piece in _row(checkpoint.parts[weight], token)], dim=1)
        for token in set(tokens)
    }
    return torch.cat([rows[token] for token in tokens])


def _row(parts: Parts, row: int) -> list[Piece]:
    """The pieces of one row: a shard has either some rows whole (axis 0) or some columns of each (axis 1)."""
    if parts.axis != 0:
        return [tensor.rows(row, row + 1) for tensor in parts.pieces]
    rank, local = divmod(row, parts.pieces[0].shape[0])
    return [parts.pieces[rank].rows(local, local + 1)]
