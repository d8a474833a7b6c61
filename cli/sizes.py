"""Sizes and types as people type them."""

from __future__ import annotations

import re

from llama_convert.convert.containers.slices import FLOATS, DType
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


def parse_dtype(text: str | None) -> DType | None:
    """The type of that name, or None for None; UsageError for one that no weights are written in."""
    name = _SHORT.get(text.lower(), text.lower()) if text else None
    found = [dtype for dtype in FLOATS if dtype.label == name]
    if text and not found:
        raise UsageError(
            f"--dtype {text}: not a type for weights", advice="Give " + ", ".join(dtype.label for dtype in FLOATS) + "."
        )
    return found[0] if found else None
