"""Quantised Hugging Face and MLX folders: codes and scales put together again, or refused by name.

Sources: transformers integrations/fbgemm_fp8.py, compressed-tensors compressors/quantized_compressors,
ml-explore/mlx python/mlx/nn/layers/quantized.py (names of the tensors beside each `weight`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_convert.convert.containers.slices import FLOATS, Coding, DType, Scaled, TensorFile, TensorSlice
from llama_convert.convert.errors import CheckpointError, counted

_WEIGHT = "weight"
# Formats of compressed-tensors that are a code and a scale for each element.
_COMPRESSED = ("float-quantized", "int-quantized", "naive-quantized")
# How activations are rounded while the model runs: no part of its weights.
_ACTIVATIONS = ("input_scale", "k_scale", "v_scale", "q_scale", "output_scale")


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one quantisation names and types what belongs to a matrix. group: columns that share a scale (AFFINE)."""

    coding: Coding
    codes: tuple[DType, ...]
    scales: str
    biases: str | None = None
    group: int = 0


_FP8 = _Kind(Coding.SCALED, (DType.FLOAT8_E4M3,), "weight_scale")
_CODES = _Kind(Coding.SCALED, (DType.FLOAT8_E4M3, DType.INT8), "weight_scale")


def unpack(
    folder: Path, values: Mapping[str, Any], files: Sequence[TensorFile]
) -> tuple[Sequence[TensorFile], Mapping[str, Scaled]]:
    """The files without what belongs to quantised matrices, and those matrices by name.

    values: what config.json says; nothing is done where it does not speak of quantisation. Supported are
    fbgemm_fp8, compressed-tensors with a scale for each matrix or row, and MLX's affine codes.
    Raises CheckpointError for any other, by name, and for scales that are missing or do not fit.
    """
    kind = _kind(folder / "config.json", values)
    if kind is None:
        return files, {}
    found = {name: tensor for file in files for name, tensor in file.tensors.items()}
    coded = [name for name, tensor in found.items() if tensor.dtype in kind.codes and _stem(name) is not None]
    problems = [problem for name in coded for problem in _problems(name, kind, found)]
    if problems:
        raise CheckpointError(
            f"{folder}: quantised matrices without what they need ({counted(len(problems), 'problem')})",
            problems=problems,
            advice="Download the weights again, or use the unquantised release of this model.",
        )
    scaled = {name: _scaled(name, kind, found) for name in coded}
    used = {companion for name in coded for companion in _names(name, kind)} | set(_of_activations(found))
    rest = [
        replace(file, tensors={name: tensor for name, tensor in file.tensors.items() if name not in used})
        for file in files
    ]
    return rest, scaled


def _kind(path: Path, values: Mapping[str, Any]) -> _Kind | None:
    said = values.get("quantization_config") or values.get("quantization")
    if not said:
        return None
    settings = said if isinstance(said, dict) else {}
    method = settings.get("quant_method")
    if method == "fbgemm_fp8":
        return _FP8
    if method == "compressed-tensors" and settings.get("format") in _COMPRESSED:
        return _CODES
    if method is None and settings.get("mode", "affine") == "affine" and type(settings.get("group_size")) is int:
        return _Kind(Coding.AFFINE, (DType.UINT32,), "scales", "biases", settings["group_size"])
    name = method or settings.get("mode") or said
    detail = f", format {settings['format']}" if method and settings.get("format") else ""
    raise CheckpointError(
        f"{path}: quantised weights ({name}{detail}) are not supported",
        advice="Supported are fbgemm_fp8, compressed-tensors with float8 or int8, and MLX's affine codes; or use the "
        "unquantised release of this model (bf16).",
    )


def _stem(name: str) -> str | None:
    """Of `a.b.weight` what is before the last word; None for another last word."""
    stem, _, last = name.rpartition(".")
    return f"{stem}." if last == _WEIGHT else None


def _names(name: str, kind: _Kind) -> list[str]:
    """The tensor itself and what belongs to it."""
    stem = name.removesuffix(_WEIGHT)
    return [name, stem + kind.scales, *([stem + kind.biases] if kind.biases else [])]


def _of_activations(found: Mapping[str, TensorSlice]) -> list[str]:
    return [name for name in found if name.rpartition(".")[2] in _ACTIVATIONS]


def _problems(name: str, kind: _Kind, found: Mapping[str, TensorSlice]) -> Iterator[str]:
    companions = _names(name, kind)[1:]
    missing = [companion for companion in companions if companion not in found]
    yield from (f"missing  {companion}" for companion in missing)
    if missing:
        return
    codes, scales = found[name], found[companions[0]]
    if any(found[companion].dtype not in FLOATS for companion in companions):
        yield f"dtype    {companions[0]} is {scales.dtype.label}, wanted a type of floats"
    if f"{name}_zero_point" in found:
        yield f"unknown  {name}_zero_point: codes that are not symmetric are not supported"
    if kind.coding is Coding.AFFINE:
        yield from _affine_problems(name, kind, codes, [found[companion] for companion in companions])
    elif scales.shape not in ((), (1,), (1, 1), codes.shape[:1], (codes.shape[0], 1)):
        yield f"shape    {companions[0]}: {scales.shape}, wanted one scale, or one for each of {codes.shape[0]} rows"


def _affine_problems(name: str, kind: _Kind, codes: TensorSlice, factors: Sequence[TensorSlice]) -> Iterator[str]:
    shapes = {factor.shape for factor in factors}
    bits = _bits(codes, factors[0], kind.group)
    if len(shapes) > 1 or factors[0].shape[:1] != codes.shape[:1]:
        yield f"shape    {name}: {codes.shape} with scales and biases {sorted(shapes)}"
    elif bits not in (2, 3, 4, 5, 6, 8):
        yield f"shape    {name}: {codes.shape} with groups of {kind.group} and scales {factors[0].shape} fit no code"


def _bits(codes: TensorSlice, scales: TensorSlice, group: int) -> float:
    """Bits of a code, from the words of a row and the elements that its scales are for."""
    return codes.shape[-1] * 32 / max(scales.shape[-1] * group, 1)


def _scaled(name: str, kind: _Kind, found: Mapping[str, TensorSlice]) -> Scaled:
    codes, scales, *biases = (found[part] for part in _names(name, kind))
    if kind.coding is Coding.SCALED:
        return Scaled(coding=kind.coding, shape=codes.shape, codes=codes, scales=scales)
    shape = (codes.shape[0], scales.shape[1] * kind.group)
    bits = int(_bits(codes, scales, kind.group))
    return Scaled(coding=kind.coding, shape=shape, codes=codes, scales=scales, biases=biases[0], bits=bits)


def decoded_dtype(tokens: TensorSlice | Scaled, values: Mapping[str, Any]) -> DType:
    """The model's type: the embedding's, or where that is quantised what config.json says it is computed in."""
    if isinstance(tokens, TensorSlice):
        return tokens.dtype
    said = values.get("dtype") or values.get("torch_dtype")
    return next((dtype for dtype in FLOATS if dtype.label == said), DType.BFLOAT16)
