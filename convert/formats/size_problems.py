"""The sizes that a config states: each held to be a size at all, before any two are held against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_convert.convert.architecture import MOST_LAYERS
from llama_convert.convert.json_files import no_numbers


def size_problems(
    values: Mapping[str, Any], whole: Sequence[str], real: Sequence[str], *, layers: str
) -> Iterator[str]:
    """One sentence for every value that cannot be what its name says; absent ones and null are passed over.

    whole: names of integers from 1 on. real: names of numbers above zero. layers: which of `whole` counts layers.
    """
    yield from no_numbers(values, whole, real)
    counts = {name: values[name] for name in whole if type(values.get(name)) is int}
    yield from (f"{name} must be at least 1" for name, count in counts.items() if count < 1)
    if counts.get(layers, 0) > MOST_LAYERS:
        yield f"{layers} {counts[layers]} is more than any model has"


def are_sizes(*values: object) -> bool:
    """Whether each is a whole number from 1 on, so that they can be divided by each other."""
    return all(type(value) is int and value > 0 for value in values)
