"""How tensors are dealt out to files: in order, none too large, every byte accounted for."""

from __future__ import annotations

import json
from itertools import pairwise
from math import prod
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.containers.safetensors import read_safetensors
from llama_convert.convert.containers.slices import DType, LocalFile, TensorSlice
from llama_convert.convert.expressions import Stored
from llama_convert.convert.formats.huggingface_weights import lay_out_files
from llama_convert.convert.outputs import Tensor

Shape = tuple[int, ...]


def named(shapes: list[tuple[DType, Shape]]) -> list[Tensor]:
    """One tensor per shape; the names sort in another order than the model's."""
    return [
        Tensor(
            (Weight(Role.QUERY, layer),),
            f"layers.{layer}.q",
            Stored(TensorSlice(file=Path("unused"), offset=0, dtype=dtype, shape=shape)),
        )
        for layer, (dtype, shape) in enumerate(shapes)
    ]


SHAPES = st.lists(
    st.tuples(
        st.sampled_from([DType.FLOAT32, DType.BFLOAT16]), st.lists(st.integers(1, 9), min_size=1, max_size=2).map(tuple)
    ),
    min_size=1,
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=2000)
@given(shapes=SHAPES, shard_size=st.integers(1, 800))
def test_the_laws_of_dealing(tmp_path, shapes, shard_size):
    tensors = named(shapes)
    files, side = lay_out_files(tensors, shard_size)
    order = {tensor.name: index for index, tensor in enumerate(tensors)}
    dealt = [sorted(order[step.name] for step in file.steps) for file in files]
    assert [index for file in dealt for index in file] == list(range(len(tensors)))  # in order, each once
    for file in files:
        sizes = [step.nbytes for step in file.steps]
        assert sum(sizes) <= shard_size or len(sizes) == 1
        position = len(file.fixed[0][1])
        for step in file.steps:
            assert step.offset == position
            position += step.nbytes
        assert position == file.size
        assert all(step.name == f"layers.{step.tensor.weights[0].layer}.q" for step in file.steps)
    for before, after in pairwise(files):  # and no file was closed too early
        first = min(after.steps, key=lambda step: order[step.name])
        assert sum(step.nbytes for step in before.steps) + first.nbytes > shard_size
    assert bool(side) == (len(files) > 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=2000, max_examples=50)
@given(shapes=SHAPES, shard_size=st.integers(1, 800))
def test_the_index_says_what_the_files_hold(tmp_path, shapes, shard_size):
    files, side = lay_out_files(named(shapes), shard_size)
    total = sum(prod(shape) * dtype.nbytes for dtype, shape in shapes)
    found = {}
    for file in files:
        path = tmp_path / file.name
        path.write_bytes(file.fixed[0][1].ljust(file.size, b"\0"))
        found |= dict.fromkeys(read_safetensors(LocalFile(path)).tensors, file.name)
    assert sum(file.size - len(file.fixed[0][1]) for file in files) == total
    if len(files) == 1:
        assert (files[0].name, side) == ("model.safetensors", ())
        return
    (index,) = side
    assert index.name == "model.safetensors.index.json"
    index.write(tmp_path / index.name)
    written = json.loads((tmp_path / index.name).read_text())
    assert written["metadata"] == {"total_size": total, "total_parameters": sum(prod(shape) for _, shape in shapes)}
    assert written["weight_map"] == found
    assert list(written["weight_map"]) == sorted(found)
    assert [file.name for file in files] == [
        f"model-{number + 1:05}-of-{len(files):05}.safetensors" for number in range(len(files))
    ]


def test_a_tensor_larger_than_a_file_may_be_gets_its_own():
    files, _ = lay_out_files(named([(DType.FLOAT32, (2,)), (DType.FLOAT32, (100,)), (DType.FLOAT32, (2,))]), 16)
    assert [[step.nbytes for step in file.steps] for file in files] == [[8], [400], [8]]


def test_one_file_holds_exactly_shard_size():
    two = [(DType.BFLOAT16, (4,)), (DType.BFLOAT16, (4,))]
    assert [len(lay_out_files(named(two), size)[0]) for size in (15, 16)] == [2, 1]
