"""A Llama in numpy and float64, written position by position from the papers: the slow, obvious way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.checkpoints import MetaModel


def float64_logits(model: MetaModel, tokens: Sequence[int], positions: Sequence[int] | None = None) -> np.ndarray:
    """positions: where the tokens stand; None: one after the other."""
    places = range(len(tokens)) if positions is None else positions
    weights = {name: weight.double().numpy() for name, weight in model.weights.items()}
    stream = [weights["tok_embeddings.weight"][token] for token in tokens]
    for layer in range(model.params["n_layers"]):
        own = {
            name.removeprefix(f"layers.{layer}."): weight
            for name, weight in weights.items()
            if name.startswith(f"layers.{layer}.")
        }
        attended = attention(model, own, [norm(model, x, own["attention_norm.weight"]) for x in stream], places)
        stream = [x + y for x, y in zip(stream, attended, strict=True)]
        stream = [x + feed_forward(own, norm(model, x, own["ffn_norm.weight"])) for x in stream]
    return np.stack([weights["output.weight"] @ norm(model, x, weights["norm.weight"]) for x in stream])


def norm(model: MetaModel, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2) + model.params["norm_eps"]) * weight


def feed_forward(own: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    gate = own["feed_forward.w1.weight"] @ x
    return own["feed_forward.w2.weight"] @ (gate / (1 + np.exp(-gate)) * (own["feed_forward.w3.weight"] @ x))


def attention(
    model: MetaModel, own: dict[str, np.ndarray], stream: list[np.ndarray], places: Sequence[int]
) -> list[np.ndarray]:
    def heads(kind: str, x: np.ndarray) -> np.ndarray:
        return (own[f"attention.{kind}.weight"] @ x).reshape(-1, model.head_dim)

    keys = [turned(model, heads("wk", x), place) for place, x in zip(places, stream, strict=True)]
    values = [heads("wv", x) for x in stream]
    out = []
    for number, x in enumerate(stream):
        mixed = []
        for index, query in enumerate(turned(model, heads("wq", x), places[number])):
            shared = index * model.kv_heads // model.heads
            scores = np.array([query @ keys[i][shared] for i in range(number + 1)]) / math.sqrt(model.head_dim)
            shares = np.exp(scores - scores.max())
            mixed.append(sum(share * values[i][shared] for i, share in enumerate(shares / shares.sum())))
        out.append(own["attention.wo.weight"] @ np.concatenate(mixed))
    return out


def turned(model: MetaModel, heads: np.ndarray, place: int) -> np.ndarray:
    """Rows 2i and 2i+1 of each head turned by the place times the pair's frequency."""
    out = np.empty_like(heads)
    for i in range(model.head_dim // 2):
        angle = place * frequency(model, i)
        x, y = heads[:, 2 * i], heads[:, 2 * i + 1]
        out[:, 2 * i] = x * math.cos(angle) - y * math.sin(angle)
        out[:, 2 * i + 1] = x * math.sin(angle) + y * math.cos(angle)
    return out


def frequency(model: MetaModel, pair: int) -> float:
    """Meta's apply_scaling, case by case: short waves as they are, long ones stretched, a ramp between."""
    plain = model.params.get("rope_theta", 10000.0) ** (-2 * pair / model.head_dim)
    if not model.params.get("use_scaled_rope"):
        return plain
    length, context, low, high = 2 * math.pi / plain, 8192, 1, 4
    if length < context / high:
        return plain
    if length > context / low:
        return plain / model.rope_factor
    smooth = (context / length - low) / (high - low)
    return (1 - smooth) * plain / model.rope_factor + smooth * plain
