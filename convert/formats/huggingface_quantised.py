"""Quantised Hugging Face and MLX folders: codes and scales put together again, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_convert.convert.containers.slices import FLOATS, DType, Scaled, TensorFile, TensorSlice
from llama_convert.convert.errors import CheckpointError


def unpack(
    folder: Path, values: Mapping[str, Any], files: Sequence[TensorFile]
) -> tuple[Sequence[TensorFile], Mapping[str, Scaled]]:
    """The files without what belongs to quantised matrices, and those matrices by name.

    values: what config.json says. Raises CheckpointError for a quantisation that is not supported.
    """
    if quantised := values.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise CheckpointError(
            f"{folder / 'config.json'}: quantised weights ({method}) are not supported",
            advice="Use the unquantised release of this model (bf16).",
        )
    return files, {}


def decoded_dtype(tokens: TensorSlice | Scaled, values: Mapping[str, Any]) -> DType:
    """The model's type: the embedding's, or where that is quantised what config.json says it is computed in."""
    if isinstance(tokens, TensorSlice):
        return tokens.dtype
    said = values.get("dtype") or values.get("torch_dtype")
    return next((dtype for dtype in FLOATS if dtype.label == said), DType.BFLOAT16)
