"""More rows and fewer: old rows keep every bit, new ones are what was asked for, whatever the files' layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from llama_convert.convert import Checkpoint, Request, open_checkpoint
from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.blocks import Block, OpenFiles, blocks
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.expressions import Columns, Made, Stored, columns, describe, resized, rows, runs
from llama_convert.convert.making import mean_row, normal_rows
from llama_convert.convert.resizing import with_change
from llama_convert.convert.vocabulary import Change, Init, NewRows
from tests.checkpoints import CASES
from tests.convert.rows import HEAD, MEAN, TOKENS, ZERO, content, nearest
from tests.convert.support import raw

CHANGE = Change(rows=0, tokens=(), pad=None, embedding=ZERO, head=MEAN, why="")
HALVES = [torch.bfloat16, torch.float16]


def changed(source: Checkpoint, count: int, **fields: object) -> Checkpoint:
    return with_change(source, replace(CHANGE, rows=count, **fields), Request())  # type: ignore[arg-type]


# ---- rows that are made ----


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_the_mean_is_that_of_float64_rounded_once(dtype: torch.dtype, store) -> None:
    table = torch.randn(3000, 48).to(dtype)
    mean = content(Made(Stored(store(table)), MEAN, 2))
    wanted = nearest(table.double().mean(0), dtype)
    assert mean == raw(wanted) * 2


def test_two_roundings_would_be_seen() -> None:
    """Half way between two bfloat16 values, but for a bit that float32 cannot hold: it goes up, not to even."""
    values = np.full((4096, 1), 1 + 2**-8, np.float32)
    values[0] += np.float32(2**-20)
    found = mean_row([values.view(np.uint8)], DType.FLOAT32, DType.BFLOAT16)
    assert found.view(np.uint16)[0, 0] == 0x3F81
    assert (values.astype(np.float64).mean(0).astype(np.float32) == 1 + 2**-8).all()  # from there it would go down


def test_rows_that_are_no_numbers_are_left_out(store) -> None:
    table = torch.randn(3000, 48).bfloat16()
    plain = [content(Made(Stored(store(table[2:])), NewRows(init=init), 2)) for init in (Init.MEAN, Init.NORMAL)]
    table[0, 5], table[1] = torch.nan, torch.inf
    assert [content(Made(Stored(store(table)), NewRows(init=init), 2)) for init in (Init.MEAN, Init.NORMAL)] == plain


def test_zeros_and_copies(store) -> None:
    table = torch.randn(40, 16).bfloat16()
    stored = Stored(store(table))
    assert content(Made(stored, ZERO, 3)) == bytes(3 * 16 * 2)
    assert content(Made(stored, NewRows(init=Init.COPY, source=7), 3)) == raw(table[7]) * 3


def test_random_rows_have_the_mean_and_a_part_of_the_covariance() -> None:
    generator = np.random.default_rng(5)
    mixed = generator.standard_normal((300, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 2.0]])
    table = (mixed + np.array([1.0, -2.0, 0.5])).astype(np.float32)
    made = normal_rows([table.view(np.uint8)], DType.FLOAT32, DType.FLOAT32, range(4000), seed=1).view(np.float32)
    around = (made.astype(np.float64) - table.mean(0, dtype=np.float64)) / np.sqrt(1e-9)
    covariance = np.cov(table.T.astype(np.float64), bias=True)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    # Of 4,000 draws a variance is known to within sqrt(2 / 4000) = 0.022, a mean to 0.016 deviations: 3.6 times that.
    assert (np.abs(np.cov(around.T, bias=True) - covariance) / scale).max() < 0.08
    assert (np.abs(around.mean(0)) / np.sqrt(np.diag(covariance))).max() < 0.057
    assert (np.abs(np.cov(around.T, bias=True) - np.diag(np.diag(covariance))) / scale).max() > 0.5  # it is not white


def test_random_rows_are_the_seeds(store) -> None:
    stored = Stored(store(torch.randn(40, 16)))
    first, again, other = (content(Made(stored, NewRows(init=Init.NORMAL, seed=seed), 5)) for seed in (1, 1, 2))
    assert first == again != other
    assert len({first[start : start + 64] for start in range(0, 5 * 64, 64)}) == 5


@pytest.mark.parametrize("init", Init)
def test_parts_are_those_of_the_whole(init: Init, store) -> None:
    stored = Stored(store(torch.randn(40, 16)))
    whole = resized(stored, 47, NewRows(init=init, source=3, seed=4))
    found = np.frombuffer(content(whole), np.float32).reshape(47, 16)
    for start, stop in ((0, 40), (38, 42), (41, 46), (0, 47)):
        assert content(rows(whole, start, stop)) == found[start:stop].tobytes()
        assert content(columns(rows(whole, start, stop), 5, 11)) == found[start:stop, 5:11].tobytes()


def test_a_plan_says_what_is_done(store) -> None:
    stored = Stored(store(torch.randn(40, 16)))
    assert describe(resized(stored, 41, MEAN)) == "row added (mean)"
    assert describe(resized(stored, 64, ZERO)) == "24 rows added (zero)"
    assert describe(resized(stored, 30, ZERO)) == "copied"


def test_old_rows_are_copied_and_the_mean_is_made_in_one_reading(store, monkeypatch: pytest.MonkeyPatch) -> None:
    table = store(torch.randn(3000, 16))
    whole = resized(Stored(table), 5000, MEAN)
    assert [type(run) for run in runs(whole) or ()] == [type(table), Made]
    read_bytes: list[int] = []
    real = OpenFiles.read_into

    def counted(files: OpenFiles, path: Path, offset: int, block: Block) -> None:
        read_bytes.append(block.nbytes)
        real(files, path, offset, block)

    monkeypatch.setattr(OpenFiles, "read_into", counted)
    with OpenFiles() as files:
        made = [block for part in (whole, rows(whole, 4000, 5000)) for block in blocks(part, files, size=10_000)]
    assert sum(read_bytes) == 2 * table.nbytes  # once as rows, once for the mean of 3,000 new ones
    assert sum(block.nbytes for block in made) == 6000 * 64


# ---- weights of every layout ----


@pytest.mark.parametrize("case", CASES, ids=str)
def test_old_rows_keep_every_bit(case, meta_checkpoint: Callable[..., Path]) -> None:
    source, model = open_checkpoint(meta_checkpoint(case), case.version), case.model()
    more, fewer = changed(source, source.rows + 3), changed(source, source.rows - 5)
    for weight, name in ((TOKENS, "tok_embeddings.weight"), (HEAD, "output.weight")):
        table = model.weights[name]
        found = content(more.weight(weight))
        new = torch.zeros(table.shape[1], dtype=table.dtype)
        if weight is HEAD:
            new = nearest(table.double().mean(0), table.dtype)
        assert found == raw(table) + raw(new) * 3
        assert content(fewer.weight(weight)) == raw(table[:-5])
        assert more.weight(weight).shape == more.config.shape(weight.role)
    for role in (Role.KEY, Role.VALUE, Role.DOWN):
        assert more.weight(Weight(role, 1)) == source.weight(Weight(role, 1))


def test_an_embedding_cut_by_columns_is_copied_for_as_many_shards(meta_checkpoint: Callable[..., Path]) -> None:
    (case,) = (case for case in CASES if case.name == "2-2shards")
    whole = changed(open_checkpoint(meta_checkpoint(case)), 520).weight(TOKENS)
    half = columns(whole, 0, whole.shape[1] // 2)
    assert [type(run) for run in runs(half) or ()][1:] == [Columns]
    found = np.frombuffer(content(whole), np.uint16).reshape(520, -1)
    assert content(half) == found[:, : found.shape[1] // 2].tobytes()
