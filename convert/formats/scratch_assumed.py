"""What a user says of the book's files with --assume: names of `LlamaConfig`, and the order of rotated rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from llama_convert.convert.architecture import Rotary
from llama_convert.convert.errors import UsageError
from llama_convert.convert.formats.scratch_sizes import UNSCALED

_ORDERS = {"pairs": Rotary.PAIRS, "halves": Rotary.HALVES}


def read_assumed(assumed: Mapping[str, str]) -> dict[str, Any]:
    """The values, each as what it is; UsageError with all that are not."""
    values, problems = {}, []
    for name, text in assumed.items():
        parse, wanted = _PARSERS[name]
        try:
            values[name] = parse(text)
        except (ValueError, KeyError):
            problems.append(f"{name}={text}: wanted {wanted}")
    if problems:
        raise UsageError(f"--assume {'; '.join(problems)}", advice="Give it as --assume NAME=VALUE.")
    return values


def _whole(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _real(text: str) -> float:
    if not 0 < (number := float(text)) < inf:
        raise ValueError
    return number


def _factor(text: str) -> float | None:
    return None if text.lower() == UNSCALED else _real(text)


_PARSERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "heads": (_whole, "a whole number"),
    "kv_heads": (_whole, "a whole number"),
    "rope_theta": (_real, "a number above zero"),
    "rope_factor": (_factor, f"a number above zero, or {UNSCALED}"),
    "context": (_whole, "a whole number"),
    "rotary": (lambda text: _ORDERS[text.lower()], " or ".join(_ORDERS)),
}
ASSUMABLE = tuple(_PARSERS)
