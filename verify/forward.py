"""A Llama, run as its files lie: the reference that both sides of a comparison go through.

Each checkpoint runs in its own convention: its rotary order, its config, its model-parallel shards. Weights
are neither joined nor reordered first: a mistake in how the converter does that would cancel itself out here.
A run goes from place to place (embedding, attention and feed-forward of each layer, output head), so that
several can go in step, each with one weight in memory.

Shapes: N tokens of all prompts together, D hidden size; heads are (heads, tokens, head_dim). Sources:
meta-llama/llama-models models/llama3/model.py (pairs, scaling, shards), huggingface/transformers
models/llama/modeling_llama.py (halves).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from llama_convert.convert.architecture import LlamaConfig, Role, Rotary, Weight
from llama_convert.convert.checkpoint import Checkpoint, Parts
from llama_convert.convert.errors import UsageError
from llama_convert.verify.products import product
from llama_convert.verify.prompts import Prompt, consecutive
from llama_convert.verify.reading import Piece, read, row_blocks

# Gives a part of a weight in the type, and on the device, to compute with.
Load: TypeAlias = Callable[[Weight, Piece], Tensor]
# (N, columns), (rows, columns) -> (N, rows): every row of the first with every row of the second.
Multiply: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Rotate: TypeAlias = Callable[[Tensor], Tensor]


class Operation(Enum):
    """The parts of a Llama between which its state can be looked at."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    FEED_FORWARD = "feed-forward"
    HEAD = "output head"


class Place(NamedTuple):
    """An operation, and its layer where it is a layer's."""

    operation: Operation
    layer: int | None = None

    def __str__(self) -> str:
        return self.operation.value if self.layer is None else f"{self.operation.value} of layer {self.layer}"


def load_as(compute: torch.dtype, device: str = "cpu") -> Load:
    """Weights read from disk whenever they are used: one part of one weight in memory at a time."""
    return lambda weight, piece: read(piece).to(device, non_blocking=True).to(compute)


def kept(load: Load) -> Load:
    """The same weights, each read once and then held: for models that fit into memory."""
    return functools.cache(load)


FLOAT32 = load_as(torch.float32)
FLOAT64 = load_as(torch.float64)


@dataclass(frozen=True, slots=True)
class Run:
    """One checkpoint on its way through some prompts, all of them at once.

    load: where weights come from, and what is computed in. multiply: how sums are made.
    """

    checkpoint: Checkpoint
    prompts: tuple[Prompt, ...]
    load: Load = FLOAT32
    multiply: Multiply = product

    def part(self, role: Role, layer: int | None, rank: int) -> Tensor:
        """One shard's part of a weight, as it is stored there."""
        weight = Weight(role, layer)
        return self.load(weight, self.checkpoint.parts[weight].pieces[rank])


def logits(
    checkpoint: Checkpoint, tokens: Sequence[int], load: Load = FLOAT32, *, at: Sequence[int] | None = None
) -> Tensor:
    """The model's logits after each of the tokens, (tokens, vocab), in the type that `load` gives.

    at: those to give, -1 the last; None for all. No token is put in front.
    Raises UsageError for a token that the vocabulary does not have.
    Cost: every weight read once; the largest part of one in memory, and attention scores, heads x T x T.
    """
    run = Run(checkpoint, (consecutive("tokens", tuple(tokens)),), load)
    *inner, last = places(checkpoint.config)
    state = functools.reduce(lambda state, place: after(run, place, state), inner, torch.empty(0))
    return after(run, last, state if at is None else state[list(at)])


def logits_of(checkpoint: Checkpoint, prompts: tuple[Prompt, ...], load: Load = FLOAT32) -> tuple[Tensor, ...]:
    """The logits of several prompts, (tokens, vocab) each. Cost: every weight read once for all of them."""
    run = Run(checkpoint, prompts, load)
    found = functools.reduce(lambda state, place: after(run, place, state), places(checkpoint.config), torch.empty(0))
    return torch.split(found, lengths(prompts))


def lengths(prompts: Sequence[Prompt]) -> list[int]:
    """The number of tokens of each."""
    return [len(prompt.tokens) for prompt in prompts]


def places(config: LlamaConfig) -> Iterator[Place]:
    """Every place of a model, in order."""
    yield Place(Operation.EMBEDDING)
    for layer in range(config.layers):
        yield Place(Operation.ATTENTION, layer)
        yield Place(Operation.FEED_FORWARD, layer)
    yield Place(Operation.HEAD)


def after(run: Run, place: Place, state: Tensor) -> Tensor:
    """What leaves a place where `state` enters: the residual stream, (N, D), or in the end the logits, (N, vocab)."""
    if place.operation is Operation.EMBEDDING:
        return _embedded(run)
    if place.operation is Operation.HEAD:
        return _head(run, state)
    block = _attention if place.operation is Operation.ATTENTION else _feed_forward
    # What Meta's row-parallel layers do between machines: each shard's share of the output, added up.
    shards = len(run.checkpoint.parts[Weight(Role.QUERY, place.layer)].pieces)
    return state + functools.reduce(torch.add, (block(run, state, place.layer, rank) for rank in range(shards)))


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


def rotation(checkpoint: Checkpoint, positions: Sequence[int]) -> Rotate:
    """Turns heads, (heads, tokens, head_dim), by their positions, the pairs lying as this checkpoint lays them.

    Angles are computed in float64, so that what rounding adds does not grow with the position.
    """
    angles = torch.outer(torch.tensor(positions, dtype=torch.float64), frequencies(checkpoint.config))
    return functools.partial(_turn_pairs if checkpoint.rotary is Rotary.PAIRS else _turn_halves, angles)


def _turn_pairs(angles: Tensor, heads: Tensor) -> Tensor:
    """Rows 2i and 2i+1 are the two parts of one complex number."""
    cosines, sines = _like(heads, angles.cos()), _like(heads, angles.sin())
    real, imaginary = torch.unflatten(heads, -1, (-1, 2)).unbind(-1)
    return torch.stack((real * cosines - imaginary * sines, real * sines + imaginary * cosines), dim=-1).flatten(-2)


def _turn_halves(angles: Tensor, heads: Tensor) -> Tensor:
    """Rows i and i + head_dim / 2 are the two coordinates."""
    cosines, sines = _like(heads, angles.cos()), _like(heads, angles.sin())
    x, y = heads.chunk(2, dim=-1)
    return torch.cat((x * cosines - y * sines, y * cosines + x * sines), dim=-1)


def _like(heads: Tensor, values: Tensor) -> Tensor:
    # The type first: Apple's GPUs have no float64.
    return values.to(heads.dtype).to(heads.device)


def _attention(run: Run, state: Tensor, layer: int | None, rank: int) -> Tensor:
    """One shard's heads, with the key and value heads it stores itself."""
    config = run.checkpoint.config
    normed = _normed(state, run.part(Role.ATTENTION_NORM, layer, rank), config)
    queries, keys, values = (
        torch.unflatten(run.multiply(normed, run.part(role, layer, rank)), -1, (-1, config.head_dim)).transpose(0, 1)
        for role in (Role.QUERY, Role.KEY, Role.VALUE)
    )
    group = queries.shape[0] // keys.shape[0]
    keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
    split = (torch.split(heads, lengths(run.prompts), dim=1) for heads in (queries, keys, values))
    mixed = [_attend(run, *one) for one in zip(run.prompts, *split, strict=True)]
    return run.multiply(torch.cat(mixed, dim=1).transpose(0, 1).flatten(1), run.part(Role.ATTENTION_OUT, layer, rank))


def _attend(run: Run, prompt: Prompt, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Every token looks at itself and those before it in its prompt."""
    turn = rotation(run.checkpoint, prompt.positions)
    scores = turn(queries) @ turn(keys).transpose(1, 2) / math.sqrt(queries.shape[-1])
    later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ values


def _feed_forward(run: Run, state: Tensor, layer: int | None, rank: int) -> Tensor:
    normed = _normed(state, run.part(Role.FFN_NORM, layer, rank), run.checkpoint.config)
    gate = torch.nn.functional.silu(run.multiply(normed, run.part(Role.GATE, layer, rank)))
    up = run.multiply(normed, run.part(Role.UP, layer, rank))
    return run.multiply(gate * up, run.part(Role.DOWN, layer, rank))


def _normed(state: Tensor, weight: Tensor, config: LlamaConfig) -> Tensor:
    return state * torch.rsqrt(state.square().mean(-1, keepdim=True) + config.norm_eps) * weight


def _head(run: Run, state: Tensor) -> Tensor:
    """Every shard has some of the rows; a few of them in memory at a time."""
    parts, config = run.checkpoint.parts, run.checkpoint.config
    weight = stored_head(run.checkpoint)
    columns = []
    for rank, piece in enumerate(parts[weight].pieces):
        normed = _normed(state, run.part(Role.FINAL_NORM, None, rank), config)
        columns += [run.multiply(normed, run.load(weight, rows)) for rows in row_blocks(piece)]
    return torch.cat(columns, dim=-1)


def stored_head(checkpoint: Checkpoint) -> Weight:
    """The weight that is the output head: its own, or the embedding."""
    head = Weight(Role.HEAD)
    return head if head in checkpoint.parts else Weight(Role.TOKENS)


def _embedded(run: Run) -> Tensor:
    """(N, D). Only the rows of these tokens are read."""
    checkpoint, tokens = run.checkpoint, [token for prompt in run.prompts for token in prompt.tokens]
    unknown = [token for token in tokens if not 0 <= token < checkpoint.config.vocab_size]
    if unknown or not tokens:
        raise UsageError(
            f"{checkpoint.path}: no token {unknown[0]}" if unknown else "No tokens, so there are no logits",
            advice=f"Ids go from 0 to {checkpoint.config.vocab_size - 1}.",
        )
    weight = Weight(Role.TOKENS)
    rows = {
        token: torch.cat([run.load(weight, piece) for piece in row_pieces(checkpoint.parts[weight], token)], dim=1)
        for token in set(tokens)
    }
    return torch.cat([rows[token] for token in tokens])


def row_pieces(parts: Parts, row: int) -> list[Piece]:
    """The pieces of one row: a shard has either some rows whole (axis 0) or some columns of each (axis 1)."""
    if parts.axis != 0:
        return [tensor.rows(row, row + 1) for tensor in parts.pieces]
    rank, local = divmod(row, parts.pieces[0].shape[0])
    return [parts.pieces[rank].rows(local, local + 1)]
