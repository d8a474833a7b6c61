"""A vocabulary that changes on the way from any format to any other, in shards, tied and quantised."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from llama_convert.convert import (
    Request,
    UsageError,
    convert_checkpoint,
    open_checkpoint,
    pad_change,
    plan_conversion,
    resize_change,
)
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.expressions import rows
from llama_convert.convert.formats import FORMATS
from llama_convert.convert.vocabulary import Init
from tests.checkpoints import random_model, write_meta
from tests.convert.rows import HEAD, MEAN, TOKENS, content, nearest, rows_of

NAMES = [form.name for form in FORMATS]
pytestmark = pytest.mark.usefixtures("in_one_process")


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


def test_random_rows_of_the_head_are_drawn_apart_from_the_embeddings(written) -> None:
    change = partial(resize_change, vocab_size=520, init=Init.NORMAL, seed=3)
    planned = plan_conversion(written("hf"), change=change).source.change
    assert planned
    assert planned.embedding.seed == 3 != planned.head.seed


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
