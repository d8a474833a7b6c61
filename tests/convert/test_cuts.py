"""Rows and columns of expressions: the same elements as of the whole, cut as near to the files as can be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from llama_convert.convert.architecture import Rotary
from llama_convert.convert.blocks import OpenFiles, blocks
from llama_convert.convert.containers.slices import Coding, DType, Scaled, TensorSlice
from llama_convert.convert.expressions import (
    Cast,
    Decoded,
    EveryNthHead,
    Expression,
    Joined,
    RotaryOrder,
    Stored,
    columns,
    describe,
    rows,
    runs,
)

PER_TEST = settings(deadline=4000, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADS, HEAD_DIM, COPIES, WIDTH = 6, 4, 2, 12


def values(expression: Expression) -> Tensor:
    with OpenFiles() as files:
        content = bytearray(b"".join(block.tobytes() for block in blocks(expression, files, 50)))
    return torch.frombuffer(content, dtype=getattr(torch, expression.dtype.label)).reshape(expression.shape)


def weight(rows: int = HEADS * HEAD_DIM) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(rows))


@pytest.fixture
def expressions(store) -> dict[str, Expression]:
    """One of each kind, and those that plans are made of."""
    plain, strided = Stored(store(weight())), Stored(store(weight(), strided=True))
    halves = tuple(Stored(store(part.contiguous())) for part in weight().split(HEADS * HEAD_DIM // 2))
    sides = tuple(Stored(store(part.contiguous())) for part in weight().split(WIDTH // 3, dim=1))
    repeated = weight().unflatten(0, (HEADS, HEAD_DIM)).repeat_interleave(COPIES, 0).flatten(0, 1)
    once = EveryNthHead(Stored(store(repeated)), HEAD_DIM, COPIES)
    codes, scales = store(weight().to(torch.float8_e4m3fn)), store(torch.rand(HEADS * HEAD_DIM, 1))
    decoded = Decoded(Scaled(coding=Coding.SCALED, shape=codes.shape, codes=codes, scales=scales))
    return {
        "stored": plain,
        "strided": strided,
        "joined by rows": Joined(halves, 0),
        "joined by columns": Joined(sides, 1),
        "rotary": RotaryOrder(Joined(halves, 0), HEAD_DIM, Rotary.HALVES),
        "every nth head": once,
        "decoded": decoded,
        "cast": Cast(Joined((decoded, decoded), 1), DType.BFLOAT16),
        "all": Cast(RotaryOrder(once, HEAD_DIM, Rotary.PAIRS), DType.FLOAT16),
    }


KINDS = st.sampled_from(
    ["stored", "strided", "joined by rows", "joined by columns", "rotary", "every nth head", "decoded", "cast", "all"]
)


@PER_TEST
@given(kind=KINDS, cut=st.lists(st.integers(0, HEADS), min_size=2, max_size=2, unique=True).map(sorted))
def test_whole_heads_of_rows(expressions, kind: str, cut: list[int]) -> None:
    whole, (start, stop) = expressions[kind], (HEAD_DIM * place for place in cut)
    part = rows(whole, start, stop)
    assert part.shape == (stop - start, *whole.shape[1:])
    assert torch.equal(values(part), values(whole)[start:stop])


@PER_TEST
@given(kind=KINDS, cut=st.lists(st.integers(0, WIDTH), min_size=2, max_size=2, unique=True).map(sorted))
def test_columns(expressions, kind: str, cut: list[int]) -> None:
    whole, (start, stop) = expressions[kind], cut
    part = columns(whole, start, stop)
    assert part.shape == (whole.shape[0], stop - start)
    assert torch.equal(values(part), values(whole)[:, start:stop])


def test_what_lies_in_order_stays_a_copy(expressions) -> None:
    for kind in ("stored", "joined by rows", "every nth head"):
        assert runs(rows(expressions[kind], HEAD_DIM, 2 * HEAD_DIM)) is not None, kind
    assert runs(columns(expressions["joined by columns"], 4, 8)) is not None
    assert describe(columns(expressions["cast"], 12, 24)) == "dequantised, cast to bfloat16"


def test_columns_of_quantised_blocks_are_cut_behind_the_decoding(tmp_path) -> None:
    """A block of 32 columns cannot be halved as it lies."""
    (tmp_path / "codes").write_bytes(bytes(range(34)) * 2)
    source = TensorSlice(file=tmp_path / "codes", offset=0, dtype=DType.Q8_0, shape=(2, 32))
    whole = Cast(Stored(source), DType.FLOAT32)
    assert torch.equal(values(columns(whole, 8, 24)), values(whole)[:, 8:24])
