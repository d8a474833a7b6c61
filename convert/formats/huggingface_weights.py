"""Hugging Face's weight files: found through their index and opened, or laid out with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.safetensors import lay_out, read_safetensors
from llama_convert.convert.containers.slices import ByteSource, TensorFile
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.expressions import nbytes
from llama_convert.convert.json_files import json_file, read_object
from llama_convert.convert.outputs import SideFile, Step, Tensor, WeightFile
from llama_convert.convert.reading import collect

_SHARD_SIZE = 5_000_000_000
# The name of a single file, its container, and the name of the index where there are several; the best first.
_KINDS: tuple[tuple[str, Callable[[ByteSource], TensorFile], str], ...] = (
    ("model.safetensors", read_safetensors, "model.safetensors.index.json"),
    ("pytorch_model.bin", read_pth, "pytorch_model.bin.index.json"),
)


def weight_files(folder: Path) -> bool:
    """Whether the folder has weight files of Hugging Face's, complete or not."""
    return any(any(folder.glob("*." + name.rpartition(".")[2] + "*")) for name, _, _ in _KINDS)


def open_files(folder: Path) -> list[TensorFile]:
    """All weight files that belong together; safetensors where there are both kinds.

    Raises CheckpointError: none, or fewer than the index names.
    """
    for single, read, index in _KINDS:
        if (folder / index).is_file() or (folder / single).is_file():
            names = _file_names(folder / index) if (folder / index).is_file() else [single]
            _check_present(folder, names)
            return collect([partial(read, byte_source(folder / name)) for name in names])
    raise CheckpointError(
        f"{folder}: has weight files, but neither "
        + " nor ".join(f"{single} or {index}" for single, _, index in _KINDS),
        advice="Download the missing file into the same folder.",
    )


def _check_present(folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {counted(len(missing), 'weight file')} of {len(names)} missing",
            problems=missing,
            advice="Download the missing files into the same folder.",
        )


def _file_names(index: Path) -> list[str]:
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index}: has no weight_map from tensors to files", advice="Download it again.")
    return sorted(set(places.values()))


def lay_out_files(
    tensors: Sequence[Tensor], shard_size: int | None, *, marked: str = "pt"
) -> tuple[tuple[WeightFile, ...], tuple[SideFile, ...]]:
    """`model.safetensors`, or as many numbered shards as it takes, with their index.

    Tensors are dealt out in model order, none is split: a file exceeds shard_size (bytes, 5 GB by default)
    only where one tensor alone does. marked: the library whose tensors the files say they hold; transformers
    wants `pt`.
    """
    shards = deal(tensors, shard_size or _SHARD_SIZE)
    if len(shards) == 1:
        return (safetensors_file("model.safetensors", shards[0], marked),), ()
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    files = tuple(safetensors_file(name, shard, marked) for name, shard in zip(names, shards, strict=True))
    return files, (json_file("model.safetensors.index.json", _index(files, tensors)),)


def deal(tensors: Sequence[Tensor], shard_size: int) -> list[list[Tensor]]:
    """The tensors in groups of at most shard_size bytes, in their order."""
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        size = nbytes(tensor.expression)
        if shards[-1] and filled + size > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    return shards


def safetensors_file(name: str, tensors: Sequence[Tensor], marked: str = "pt") -> WeightFile:
    """One safetensors file of these tensors, as the library itself would write it; `marked` as above."""
    shapes = [(tensor.name, tensor.expression.dtype, tensor.expression.shape) for tensor in tensors]
    layout = lay_out(shapes, {"format": marked})
    made = {tensor.name: tensor for tensor in tensors}
    steps = tuple(Step(made[tensor], offset) for tensor, offset in layout.offsets)
    return WeightFile(name=name, fixed=((0, layout.header),), steps=steps, size=layout.size)


def _index(files: Sequence[WeightFile], tensors: Sequence[Tensor]) -> Mapping[str, Any]:
    total = sum(nbytes(tensor.expression) for tensor in tensors)
    elements = sum(nbytes(tensor.expression) // tensor.expression.dtype.nbytes for tensor in tensors)
    places = {step.name: file.name for file in files for step in file.steps}
    return {
        "metadata": {"total_size": total, "total_parameters": elements},
        "weight_map": dict(sorted(places.items())),
    }
