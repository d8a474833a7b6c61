"""Meta's FP8 checkpoints: feed-forward matrices of one byte an element, their scales in `fp8_scales_N.pt`.

Source: meta-llama/llama-models models/llama3/quantization/loader.py, convert_to_fp8_quantized_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from llama_convert.convert.architecture import Role
from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.slices import FLOATS, Coding, DType, Scaled, TensorFile, TensorSlice
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.format import Format
from llama_convert.convert.reading import collect

_MODULES = {Role.GATE: "w1", Role.UP: "w3", Role.DOWN: "w2"}
_ADVICE = "Download them again, or use the unquantised release of this model (bf16)."


def read_scaled(form: Format, files: Sequence[TensorFile]) -> tuple[tuple[TensorFile, ...], list[dict[str, Scaled]]]:
    """The files of scales, and for each shard its FP8 matrices by name, each row with a scale.

    A matrix that is split by columns has scales of its own in every shard. Both are empty where nothing is FP8.
    Raises CheckpointError with every file, then with every scale, that is missing, left over or of another shape.
    """
    keys = [_keys(form, file, rank) for rank, file in enumerate(files)]
    scales = _open(files, [rank for rank, found in enumerate(keys) if found])
    problems = [
        f"{own.path.name}: {problem}"
        for rank, own in scales.items()
        for problem in _misfits(own, files[rank], keys[rank])
    ]
    if problems:
        raise CheckpointError(
            f"{files[0].path.parent}: the scales do not fit the FP8 weights ({counted(len(problems), 'problem')})",
            problems=problems,
            advice=_ADVICE,
        )
    scaled = [
        {name: _scaled(file.tensors[name], scales[rank].tensors[key]) for key, name in keys[rank].items()}
        for rank, file in enumerate(files)
    ]
    return tuple(scales.values()), scaled


def _keys(form: Format, file: TensorFile, rank: int) -> dict[str, str]:
    """The names of the shard's FP8 matrices, by what their scales are called."""
    return {
        f"{weight.layer}_feed_forward.{_MODULES[weight.role]}_{rank}": name
        for name, tensor in file.tensors.items()
        for weight in form.weights_of(name)
        if tensor.dtype is DType.FLOAT8_E4M3 and weight.role in _MODULES
    }


def _open(files: Sequence[TensorFile], ranks: Sequence[int]) -> dict[int, TensorFile]:
    paths = [files[rank].path.with_name(f"fp8_scales_{rank}.pt") for rank in ranks]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{files[0].path.parent}: FP8 weights, and no scales for them ({counted(len(missing), 'file')} missing)",
            problems=missing,
            advice="Download them into the same folder, or use the unquantised release of this model (bf16).",
        )
    return dict(zip(ranks, collect([partial(read_pth, byte_source(path)) for path in paths]), strict=True))


def _misfits(scales: TensorFile, file: TensorFile, keys: Mapping[str, str]) -> Iterator[str]:
    yield from (f"missing  {key}" for key in keys if key not in scales.tensors)
    yield from (f"unknown  {key}" for key in scales.tensors if key not in keys)
    for key in keys.keys() & scales.tensors.keys():
        found, matrix = scales.tensors[key], file.tensors[keys[key]]
        if found.shape not in ((matrix.shape[0],), (matrix.shape[0], 1)) or found.dtype not in FLOATS:
            yield f"{key} is {found.dtype.label} {found.shape}, wanted one for each row of {matrix.shape}"


def _scaled(codes: TensorSlice, scales: TensorSlice) -> Scaled:
    rows, strides = codes.shape[0], scales.strides
    column = replace(scales, shape=(rows, 1), strides=(strides[0], 1) if strides else None)
    return Scaled(coding=Coding.SCALED, shape=codes.shape, codes=codes, scales=column)
