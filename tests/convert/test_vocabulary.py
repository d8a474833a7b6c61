"""More rows and fewer: old rows keep every bit, new ones are what was asked for, whatever the files' layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from llama_convert.convert import (
    Checkpoint,
    Request,
    UsageError,
    convert_checkpoint,
    open_checkpoint,
    pad_change,
    plan_conversion,
    resize_change,
)
from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.aside import write_side_files
from llama_convert.convert.blocks import Block, OpenFiles, blocks, read
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.expressions import Columns, Expression, Made, Stored, columns, describe, resized, rows, runs
from llama_convert.convert.formats import FORMATS
from llama_convert.convert.making import mean_row, normal_rows
from llama_convert.convert.outputs import SideFile
from llama_convert.convert.resizing import with_change
from llama_convert.convert.vocabulary import Change, Init, NewRows
from llama_convert.verify.forward import logits_of
from llama_convert.verify.prompts import Prompt
from tests.checkpoints import CASES, random_model, write_meta
from tests.convert.support import raw

NAMES = [form.name for form in FORMATS]
TOKENS, HEAD = Weight(Role.TOKENS), Weight(Role.HEAD)
MEAN, ZERO = NewRows(init=Init.MEAN), NewRows(init=Init.ZERO)
CHANGE = Change(rows=0, tokens=(), pad=None, embedding=ZERO, head=MEAN, why="")
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files written here: a process for each of a hundred conversions is what would take the time."""

    @contextmanager
    def written(files: list[SideFile], folder: Path) -> Iterator[None]:
        yield
        write_side_files(files, folder)

    monkeypatch.setattr("llama_convert.convert.conversion.written_aside", written)


def content(expression: Expression) -> bytes:
    with OpenFiles() as files:
        return b"".join(block.tobytes() for block in blocks(expression, files, size=1000))


def changed(source: Checkpoint, count: int, **fields: object) -> Checkpoint:
    return with_change(source, replace(CHANGE, rows=count, **fields), Request())  # type: ignore[arg-type]


def nearest(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64 values in the type, to nearest even: the nearer of neighbours, found by their exact distances."""
    found = values.to(dtype)
    if dtype is torch.float32:
        return found
    bits = found.view(torch.int16)
    for step in (-1, 1):
        other = (bits + step).view(dtype)
        gain = (found.double() - values).abs() - (other.double() - values).abs()
        even = (gain == 0) & (other.view(torch.int16) % 2 == 0)
        found = torch.where((gain > 0) | even, other, found)
    return found


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
    table = (mixed - mixed.mean(0)).astype(np.float32)
    made = normal_rows([table.view(np.uint8)], DType.FLOAT32, DType.FLOAT32, range(4000), seed=1).view(np.float32)
    around = made.astype(np.float64) / np.sqrt(1e-9)
    covariance = table.T.astype(np.float64) @ table / len(table)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert (np.abs(np.cov(around.T, bias=True) - covariance) / scale).max() < 0.08
    assert (np.abs(around.mean(0)) / np.sqrt(np.diag(covariance))).max() < 0.08
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


# ---- every format in and out ----


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """format -> a Llama 2 model in float32, which all of them hold."""
    place = tmp_path_factory.mktemp("formats")
    model = random_model("2", dtype=torch.float32)
    source = write_meta(model, place / "source", shards=2, tokenizer=model.tokenizer)

    def made(name: str) -> Path:
        folder: Path = place / name
        if not folder.exists():
            convert_checkpoint(plan_conversion(source, to=name, llama_version="2"), folder)
        return folder

    return made


def rows_of(checkpoint: Checkpoint, weight: Weight) -> torch.Tensor:
    """The weight as its files hold it."""
    expression = checkpoint.weight(weight)
    with OpenFiles() as files:
        found = read(expression, 0, expression.shape[0], files)
    return torch.from_numpy(found.copy()).view(getattr(torch, expression.dtype.label))


@pytest.mark.parametrize("a", NAMES)
@pytest.mark.parametrize("b", NAMES)
def test_a_pad_row_from_any_format_to_any_other(a: str, b: str, written, tmp_path: Path) -> None:
    source = open_checkpoint(written(a))
    plan = plan_conversion(written(a), to=b, change=pad_change)
    after = open_checkpoint(convert_checkpoint(plan, tmp_path / "out").folder)
    assert after.config.vocab_size == source.config.vocab_size + 1 == 513
    for weight in (TOKENS, HEAD):
        old, new = rows_of(source, weight), rows_of(after, weight)
        assert torch.equal(new[:512], old)
        wanted = torch.zeros(old.shape[1]) if weight is TOKENS else nearest(old.double().mean(0), old.dtype)
        assert torch.equal(new[512], wanted)


def test_shards_of_a_longer_vocabulary(tmp_path: Path) -> None:
    """Of Llama 3 rows are dealt out: the last shard has new ones, and those alone where the vocabulary doubles."""
    model = random_model("3.1")
    folder = write_meta(model, tmp_path / "meta", shards=4, tokenizer="tiktoken")
    for count in (832, 4 * 768):
        plan = plan_conversion(
            folder, to="meta", request=Request(shards=4), change=partial(resize_change, vocab_size=count)
        )
        after = open_checkpoint(convert_checkpoint(plan, tmp_path / f"{count}").folder)
        table, found = model.weights["output.weight"], rows_of(after, HEAD)
        assert torch.equal(found[:768], table)
        assert torch.equal(found[768:], nearest(table.double().mean(0), table.dtype).expand(count - 768, -1))


def test_a_tied_head_changes_once(tmp_path: Path) -> None:
    model = random_model("3.2")
    folder = write_meta(model, tmp_path / "meta", tokenizer="tiktoken")
    plan = plan_conversion(folder, change=partial(pad_change, token="<pad>"))
    assert plan.source.change
    assert plan.source.change.embedding == plan.source.change.head == MEAN
    convert_checkpoint(plan, tmp_path / "hf")
    back = plan_conversion(tmp_path / "hf", to="meta")
    again = open_checkpoint(convert_checkpoint(back, tmp_path / "back").folder, "3.2")
    assert again.config.tied
    assert again.config.vocab_size == 769
    assert torch.equal(rows_of(again, TOKENS), rows_of(again, HEAD))


def test_a_padded_model_is_quantised_like_any_other(tmp_path: Path) -> None:
    model = random_model("3.1")
    folder = write_meta(model, tmp_path / "meta", tokenizer="tiktoken")
    whole = plan_conversion(folder, to="gguf", request=Request(quantize=DType.Q8_0))
    padded = plan_conversion(
        folder, to="gguf", request=Request(quantize=DType.Q8_0), change=partial(pad_change, token="<pad>")
    )
    before = open_checkpoint(convert_checkpoint(whole, tmp_path / "whole").folder)
    after = open_checkpoint(convert_checkpoint(padded, tmp_path / "padded").folder)
    for weight in (TOKENS, HEAD):
        assert content(rows(after.weight(weight), 0, 768)) == content(before.weight(weight))
    with pytest.raises(UsageError, match="a quantised source needs --dtype"):
        plan_conversion(before.path, to="gguf", change=partial(pad_change, token="<pad>"))
    plain = plan_conversion(
        before.path, request=Request(dtype=DType.BFLOAT16), change=partial(resize_change, vocab_size=800)
    )
    table = rows_of(open_checkpoint(convert_checkpoint(plain, tmp_path / "plain").folder), HEAD)
    values = plan_conversion(before.path, request=Request(dtype=DType.BFLOAT16))
    assert torch.equal(table[:768], rows_of(open_checkpoint(convert_checkpoint(values, tmp_path / "v").folder), HEAD))
    assert not torch.equal(table[768], torch.zeros(192).bfloat16())


# ---- what the model computes ----


@pytest.fixture(params=["2", "3", "3.1", "3.2"])
def before_and_after(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A Hugging Face folder of the version, and the same with a new pad token; in float32."""
    model = random_model(request.param, dtype=torch.float32)
    folder = write_meta(model, tmp_path / "meta", tokenizer=model.tokenizer)
    convert_checkpoint(plan_conversion(folder, llama_version=request.param), tmp_path / "before")
    convert_checkpoint(
        plan_conversion(tmp_path / "before", change=partial(pad_change, token="<pad>")), tmp_path / "after"
    )
    return tmp_path / "before", tmp_path / "after"


def random_prompts(size: int) -> tuple[Prompt, ...]:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(0, size, (64,), generator=generator).tolist() for _ in range(4)]
    return tuple(Prompt(name=str(n), tokens=tuple(found), positions=tuple(range(64))) for n, found in enumerate(ids))


def test_logits_of_old_tokens_keep_every_bit(before_and_after: tuple[Path, Path]) -> None:
    before, after = map(open_checkpoint, before_and_after)
    size = before.config.vocab_size
    prompts = random_prompts(size)
    for old, new in zip(logits_of(before, prompts), logits_of(after, prompts), strict=True):
        assert new.shape[1] == size + 1
        assert torch.equal(new[:, :size], old)
        assert (new[:, size] < old.max(dim=1).values).all()
        # Why it is so: the logit of the mean is the mean of the logits.
        assert torch.allclose(new[:, size], old.mean(dim=1), atol=1e-4)


def test_a_row_of_zeros_would_win_where_all_logits_are_negative() -> None:
    """Negative control of the choice of the mean: the head of zeros scores 0."""
    head = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)) + torch.tensor([9.0, *[0.0] * 7])
    state = torch.tensor([-1.0, *[0.1] * 7])
    scores = head @ state
    assert scores.max() < 0
    assert head.mean(0) @ state < scores.max()


def test_transformers_computes_the_same(before_and_after: tuple[Path, Path]) -> None:
    from transformers import LlamaForCausalLM

    models = [LlamaForCausalLM.from_pretrained(path, dtype=torch.float32) for path in before_and_after]
    size = models[0].config.vocab_size
    assert [model.config.vocab_size for model in models] == [size, size + 1]
    assert models[1].config.pad_token_id == size
    ids = torch.tensor([prompt.tokens for prompt in random_prompts(size)])
    with torch.no_grad():
        old, new = (model(ids).logits for model in models)
    assert torch.equal(new[..., :size], old)
    assert (new[..., size] < old.amax(-1)).all()


@pytest.mark.parametrize("version", ["2", "3.2"])
def test_transformers_resizes_to_the_same(version: str, tmp_path: Path) -> None:
    """Old rows bit for bit, new ones to the rounding of their type: transformers adds noise far below that."""
    from transformers import LlamaForCausalLM

    model = random_model(version)
    folder = write_meta(model, tmp_path / "meta", tokenizer=model.tokenizer)
    convert_checkpoint(plan_conversion(folder, llama_version=version), tmp_path / "before")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "before", dtype=torch.bfloat16)
    size = theirs.config.vocab_size
    theirs.resize_token_embeddings(size + 5, pad_to_multiple_of=64)
    for init in (Init.MEAN, Init.NORMAL):
        plan = plan_conversion(
            tmp_path / "before", change=partial(resize_change, vocab_size=size + 64, init=init, seed=3)
        )
        convert_checkpoint(plan, tmp_path / init.value)
        ours = LlamaForCausalLM.from_pretrained(tmp_path / init.value, dtype=torch.bfloat16)
        assert ours.config.vocab_size == theirs.config.vocab_size == size + 64
        for get in ("get_input_embeddings", "get_output_embeddings"):
            mine, yours = getattr(ours, get)().weight, getattr(theirs, get)().weight
            assert mine.shape == yours.shape
            assert torch.equal(mine[:size], yours[:size])
            mean = yours[:size].double().mean(0)
            ulp = mean.abs() * 2**-7
            spread = 6 * 1e-9**0.5 * yours[:size].double().std(0)
            assert ((mine[size:].double() - mean).abs() <= ulp + spread).all()
            assert ((mine[size:].double() - yours[size:].double()).abs() <= 2 * ulp + 2 * spread).all()
