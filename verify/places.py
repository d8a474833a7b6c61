"""Weights in words: which roles, in which layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llama_convert.convert.architecture import LAYER_ROLES, Role, Weight


def places(weights: Iterable[Weight]) -> str:
    """`the query projection and key projection of layers 0-31, the output head`; roles of the same layers together."""
    layers: dict[Role, list[int]] = {}
    for weight in weights:
        layers.setdefault(weight.role, []).extend([] if weight.layer is None else [weight.layer])
    roles: dict[tuple[int, ...], list[Role]] = {}
    for role, found in layers.items():
        roles.setdefault(tuple(sorted(found)), []).append(role)
    return ", ".join(_together(same, found) for found, same in roles.items())


def _together(roles: Sequence[Role], layers: Sequence[int]) -> str:
    every = len(roles) == len(LAYER_ROLES)
    names = "all weights" if every else f"the {listed([role.value for role in roles])}"
    return f"{names} of {layer_ranges(layers)}" if layers else names


def layer_ranges(layers: Sequence[int]) -> str:
    """`layer 3`, `layers 0-2, 5`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"{'layer' if len(layers) == 1 else 'layers'} {text}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
