"""A model run with a memory of what came before: each token goes through it once.

The plain forward pass in `forward` computes all positions anew; this one keeps the keys and values of those behind
it. Both are held together by tests.

Shapes: B sequences, T new tokens of each, S positions so far; heads are (B, heads, T, head_dim).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from llama_convert.convert.architecture import LlamaConfig, Rotary
from llama_convert.verify.forward import frequencies
from llama_convert.verify.matrices import Matrix
from llama_convert.verify.model import Layer, Model, tensors

# Sizes of caches for which torch may make programs; left to itself it gives up at the ninth.
_SIZES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Keys and values of every layer, (B, kv_heads, capacity, head_dim) each; angles of every position.

    pads: how many places at the start of each sequence are empty, (B,). cosines, sines: (capacity, head_dim / 2).
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    pads: Tensor
    cosines: Tensor
    sines: Tensor

    @property
    def capacity(self) -> int:
        """Places of each sequence."""
        return self.keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


def new_cache(model: Model, lengths: Sequence[int], capacity: int, old: Iterable[Tensor] = (), kept: int = 0) -> Cache:
    """One for prompts of these lengths; the shorter ones stand at the right.

    old: keys of all layers, then values, from which the first places are kept; none for an empty cache. Each is let go
    of when the next is asked for.
    """
    config = model.config
    shape = (len(lengths), model.kv_heads, capacity, config.head_dim)
    before = iter(old)
    angles = torch.outer(torch.arange(capacity, dtype=torch.float64), frequencies(config))

    def make() -> Tensor:
        # Zeros: what is not looked at has no weight, but NaN without weight is still NaN.
        found = torch.zeros(shape, dtype=model.dtype, device=model.device)
        for tensor in islice(before, 1):
            found[: len(tensor), :, :kept] = tensor[:, :, :kept]
        return found

    return Cache(
        keys=tuple(make() for _ in range(config.layers)),
        values=tuple(make() for _ in range(config.layers)),
        pads=torch.tensor([max(lengths) - length for length in lengths], device=model.device),
        cosines=angles.cos().float().to(model.device),
        sines=angles.sin().float().to(model.device),
    )


def leading(cache: Cache, sequences: int) -> Cache:
    """The part of it that is of the first sequences: what is written there is written in the whole."""
    return replace(
        cache,
        keys=tuple(keys[:sequences] for keys in cache.keys),
        values=tuple(values[:sequences] for values in cache.values),
        pads=cache.pads[:sequences],
    )


def spread(cache: Cache, owners: Sequence[int], span: int) -> None:
    """Give every sequence the keys, values and pads of its owner, up to a place.

    owners: the number of one of the leading sequences for each.
    """
    for tensor in (*cache.keys, *cache.values):
        tensor[:, :, :span] = tensor[list(owners), :, :span]
    cache.pads.copy_(cache.pads[list(owners)])


def next_logits(model: Model, cache: Cache, tokens: Tensor, start: int, *, compiled: bool = False) -> Tensor:
    """The logits after the last of these tokens of every sequence, (B, T) to (B, vocab), float32.

    start: their place in the cache, which has the keys and values of all before it; what is behind is not looked at.
    compiled: for a single token of each: it goes through a program that torch makes of the model for each size of a
    cache, and that looks at all of it, so that nothing about it changes from one token to the next; `hold_still` first.
    """
    end = start + tokens.shape[1]
    places = torch.arange(start, end, device=model.device)
    state = model.tokens.rows(tokens)
    if not compiled:
        return _last_logits(model, state, cache, places, end)
    with torch._dynamo.config.patch(recompile_limit=_SIZES):
        return _program(model.device)(model, state, cache, places, cache.capacity).clone()


def _last_logits(model: Model, state: Tensor, cache: Cache, places: Tensor, span: int) -> Tensor:
    state = run(model, state, cache, places, span, only_last=True)
    return model.head.times(_normed(state[:, -1], model.final_norm, model.config)).float()


@functools.cache
def _program(device: str) -> Callable[[Model, Tensor, Cache, Tensor, int], Tensor]:
    """The same, compiled; on a GPU every launch of a token is recorded once and played again."""
    mode = "reduce-overhead" if device == "cuda" else "default"
    return torch.compile(_last_logits, mode=mode, fullgraph=True, dynamic=False)


def hold_still(model: Model, cache: Cache) -> None:
    """What is recorded on a GPU reads weights where they are; without this it would copy all of them each time."""
    for tensor in (*tensors(model), *cache.keys, *cache.values, cache.cosines, cache.sines, cache.pads):
        torch._dynamo.mark_static_address(tensor)


def all_logits(model: Model, tokens: Tensor) -> Tensor:
    """The logits after each token, (B, T, vocab), in float32, of sequences that are all of one length."""
    lengths = [tokens.shape[1]] * len(tokens)
    cache = new_cache(model, lengths, tokens.shape[1])
    places = torch.arange(tokens.shape[1], device=model.device)
    state = run(model, model.tokens.rows(tokens), cache, places, tokens.shape[1])
    return model.head.times(_normed(state, model.final_norm, model.config)).float()


def run(model: Model, state: Tensor, cache: Cache, places: Tensor, span: int, *, only_last: bool = False) -> Tensor:
    """The state of the new tokens behind the last layer, (B, T, hidden_size).

    places: where in the cache they stand, (T,). span: places of the cache that are looked at. only_last: give that of
    the last token alone, (B, 1, hidden_size); of the others the last layer then leaves keys and values, no more.
    """
    view = _view(model, cache, places, span)
    for number, (layer, keys, values) in enumerate(zip(model.layers, cache.keys, cache.values, strict=True), start=1):
        normed = _normed(state, layer.attention_norm, model.config)
        _keep(layer, normed, keys, values, places, view)
        if only_last and number == len(model.layers):
            state, normed, view = state[:, -1:], normed[:, -1:], view.of_last()
        state = state + _attention(layer, normed, keys[:, :, :span], values[:, :, :span], view)
        normed = _normed(state, layer.ffn_norm, model.config)
        state = state + layer.down.times(torch.nn.functional.silu(layer.gate.times(normed)) * layer.up.times(normed))
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """Where the new tokens stand, and what they look at.

    cosines, sines: of their positions, (B, 1, T, head_dim / 2), float32. visible: the places, (B, 1, T, span); None for
    all of them or, where `causal`, for itself and those before it, which torch is fast at.
    """

    rotary: Rotary
    cosines: Tensor
    sines: Tensor
    visible: Tensor | None
    causal: bool

    def of_last(self) -> _View:
        """That of the last token alone."""
        visible = None if self.visible is None else self.visible[:, :, -1:]
        last = slice(-1, None)
        return replace(
            self, cosines=self.cosines[:, :, last], sines=self.sines[:, :, last], visible=visible, causal=False
        )

    def turned(self, heads: Tensor) -> Tensor:
        """The heads, turned by their positions."""
        if self.rotary is Rotary.PAIRS:
            x, y = torch.unflatten(heads.float(), -1, (-1, 2)).unbind(-1)
        else:
            x, y = heads.float().chunk(2, dim=-1)
        turned = (x * self.cosines - y * self.sines, y * self.cosines + x * self.sines)
        joined = torch.stack(turned, dim=-1).flatten(-2) if self.rotary is Rotary.PAIRS else torch.cat(turned, dim=-1)
        return joined.to(heads.dtype)


def _view(model: Model, cache: Cache, places: Tensor, span: int) -> _View:
    positions = (places - cache.pads[:, None]).clamp(min=0)
    all_there_is = len(places) == span and not cache.pads.any()
    return _View(
        rotary=model.rotary,
        cosines=cache.cosines[positions][:, None],
        sines=cache.sines[positions][:, None],
        visible=None if all_there_is else _visible(cache.pads, places, span),
        causal=all_there_is,
    )


def _visible(pads: Tensor, places: Tensor, span: int) -> Tensor:
    """Which places each new token looks at, (B, 1, T, span): those up to itself that are not empty.

    An empty place looks at itself: with nothing to look at it would become NaN.
    """
    others = torch.arange(span, device=places.device)
    before = (others <= places[:, None]) & (others >= pads[:, None, None])
    return (before | (others == places[:, None]))[:, None]


def _keep(layer: Layer, normed: Tensor, keys: Tensor, values: Tensor, places: Tensor, view: _View) -> None:
    """Put the new tokens' keys and values into the cache."""
    keys.index_copy_(2, places, view.turned(_heads(layer.key, normed, keys.shape[-1])))
    values.index_copy_(2, places, _heads(layer.value, normed, values.shape[-1]))


def _attention(layer: Layer, normed: Tensor, keys: Tensor, values: Tensor, view: _View) -> Tensor:
    """Every query head looks at the key head of its group."""
    queries = view.turned(_heads(layer.query, normed, keys.shape[-1]))
    mixed = torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=view.visible, is_causal=view.causal, enable_gqa=True
    )
    return layer.attention_out.times(mixed.transpose(1, 2).flatten(2))


def _heads(matrix: Matrix, normed: Tensor, head_dim: int) -> Tensor:
    """(B, T, hidden_size) -> (B, heads, T, head_dim)."""
    return torch.unflatten(matrix.times(normed), -1, (-1, head_dim)).transpose(1, 2)


def _normed(state: Tensor, weight: Tensor, config: LlamaConfig) -> Tensor:
    return torch.nn.functional.rms_norm(state, weight.shape, weight, config.norm_eps)
