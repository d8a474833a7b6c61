"""Hugging Face's weight files, laid out: safetensors shards and the index that says which tensor is where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_convert.convert.architecture import Weight
from llama_convert.convert.containers.safetensors import lay_out
from llama_convert.convert.expressions import Expression, nbytes
from llama_convert.convert.json_files import json_file
from llama_convert.convert.plan import SideFile, Step, WeightFile

Named = tuple[Weight, str, Expression]


def lay_out_files(tensors: Sequence[Named], shard_size: int) -> tuple[tuple[WeightFile, ...], tuple[SideFile, ...]]:
    """`model.safetensors`, or as many numbered shards as it takes, with their index.

    Tensors are dealt out in model order, none is split: a file exceeds shard_size (bytes) only where one
    tensor alone does.
    """
    shards = _deal(tensors, shard_size)
    if len(shards) == 1:
        return (_weight_file("model.safetensors", shards[0]),), ()
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    files = tuple(_weight_file(name, shard) for name, shard in zip(names, shards, strict=True))
    index = _index(files, tensors)
    return files, (json_file("model.safetensors.index.json", index),)


def _deal(tensors: Sequence[Named], shard_size: int) -> list[list[Named]]:
    shards: list[list[Named]] = [[]]
    filled = 0
    for tensor in tensors:
        size = nbytes(tensor[2])
        if shards[-1] and filled + size > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    return shards


def _weight_file(name: str, tensors: Sequence[Named]) -> WeightFile:
    layout = lay_out([(tensor, expression.dtype, expression.shape) for _, tensor, expression in tensors])
    made = {tensor: (weight, expression) for weight, tensor, expression in tensors}
    steps = tuple(Step(made[tensor][0], tensor, made[tensor][1], offset) for tensor, offset in layout.offsets)
    return WeightFile(name, layout.header, steps, layout.size)


def _index(files: Sequence[WeightFile], tensors: Sequence[Named]) -> Mapping[str, Any]:
    total = sum(nbytes(expression) for _, _, expression in tensors)
    elements = sum(nbytes(expression) // expression.dtype.nbytes for _, _, expression in tensors)
    places = {step.name: file.name for file in files for step in file.steps}
    return {
        "metadata": {"total_size": total, "total_parameters": elements},
        "weight_map": dict(sorted(places.items())),
    }
