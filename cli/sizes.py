"""Sizes and types as people type them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llama_convert.convert.containers.slices import FLOATS, QUANTISED, DType
from llama_convert.convert.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]I?|)B?", re.IGNORECASE)
_SHORT = {"fp32": "float32", "f32": "float32", "bf16": "bfloat16", "fp16": "float16", "f16": "float16"}


def parse_size(text: str) -> int:
    """Bytes of `5GB`, `512MiB`, `1000`; UsageError where it is no size, or none at all."""
    match = _SIZE.fullmatch(text.strip())
    nbytes = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if nbytes < 1:
        raise UsageError(f"--shard-size {text}: not a size", advice="Give it as 5GB or 512MiB.")
    return nbytes


def parse_quantised(text: str | None, option: str) -> DType | None:
    """The type of that name that matrices can be written in, floats or quantised; UsageError for another."""
    name = _SHORT.get(text.lower(), text.lower()) if text else None
    known = (*FLOATS, *QUANTISED)
    found = [dtype for dtype in known if dtype.label == name]
    if text and not found:
        raise UsageError(
            f"{option} {text}: not a type that can be written",
            advice="Give " + ", ".join(dtype.label for dtype in known) + ".",
        )
    return found[0] if found else None


def parse_assumptions(texts: Sequence[str]) -> dict[str, str]:
    """`heads=32` as a name and a value; UsageError where there is no `=`."""
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise UsageError(f"--assume {wrong[0]}: wanted NAME=VALUE", advice="Such as --assume heads=32.")
    return {name.strip(): value.strip() for name, _, value in (text.partition("=") for text in texts)}


def parse_dtype(text: str | None) -> DType | None:
    """The type of that name, or None for None; UsageError for one that no weights are written in."""
    name = _SHORT.get(text.lower(), text.lower()) if text else None
    found = [dtype for dtype in FLOATS if dtype.label == name]
    if text and not found:
        raise UsageError(
            f"--dtype {text}: not a type for weights", advice="Give " + ", ".join(dtype.label for dtype in FLOATS) + "."
        )
    return found[0] if found else None
