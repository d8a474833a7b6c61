"""Sizes and constants in JSON files, held to be numbers before anything is computed with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

MOST_LAYERS = 10_000  # the 405B has 126


def no_numbers(values: Mapping[str, Any], whole: Sequence[str], real: Sequence[str]) -> Iterator[str]:
    """One sentence for every value that is no number of its kind; absent ones and null are passed over.

    whole: names of integers. real: names of numbers above zero. true and false are no numbers in JSON.
    """
    for name in (*whole, *real):
        value = values.get(name)
        if value is None:
            continue
        if name in whole and type(value) is not int:
            yield f"{name} is {value!r}, wanted a whole number"
        elif name in real and (type(value) not in (int, float) or not isfinite(value) or value <= 0):
            yield f"{name} is {value!r}, wanted a number above zero"
