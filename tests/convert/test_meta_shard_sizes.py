"""Shards of the released sizes: as long as Meta's own files are, from shapes alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_convert.convert.architecture import LlamaConfig, Weight, weights
from llama_convert.convert.containers.slices import DType, TensorSlice
from llama_convert.convert.expressions import Stored
from llama_convert.convert.formats.meta import META
from llama_convert.convert.formats.meta_writer import lay_out_shards
from llama_convert.convert.outputs import Tensor
from llama_convert.convert.tokenizers.kinds import TokenizerKind

LLAMA_405B = LlamaConfig(
    hidden_size=16384,
    intermediate_size=53248,
    layers=126,
    heads=128,
    kv_heads=8,
    head_dim=128,
    vocab_size=128256,
    norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=None,
    context=131072,
    tied=False,
)
# Records that torch did not yet write in 2024: .format_version, .storage_alignment, .data/serialization_id.
LATER_RECORDS = 512


def made(place: int, weight: Weight) -> Tensor:
    shape = LLAMA_405B.shape(weight.role)
    source = TensorSlice(file=Path("unused"), offset=place, dtype=DType.BFLOAT16, shape=shape)
    return Tensor((weight,), META.name_of(weight), Stored(source))


@pytest.mark.parametrize(("shards", "published"), [(8, 101_470_976_045), (16, 51_268_302_389)])
def test_shards_of_the_405b_are_as_long_as_metas(shards: int, published: int) -> None:
    """To within the records that torch added since: names, types and pieces are the same 1137 ones."""
    tensors = [made(place, weight) for place, weight in enumerate(weights(LLAMA_405B))]
    files = lay_out_shards(tensors, LLAMA_405B, TokenizerKind.TIKTOKEN, shards)
    assert [len(file.steps) for file in files] == [1137] * shards
    assert {file.size for file in files} == {files[0].size}
    assert 0 <= files[0].size - published <= LATER_RECORDS
