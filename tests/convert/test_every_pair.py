"""The law of lossless conversion: from any format to any other and back, every tensor is the same, bit for bit.

Over the registry: a format that is named there is tested here, in both directions against all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llama_convert.convert import Checkpoint, convert_checkpoint, open_checkpoint, plan_conversion
from llama_convert.convert.architecture import Rotary
from llama_convert.convert.aside import write_side_files
from llama_convert.convert.formats import FORMATS
from llama_convert.convert.outputs import Request
from tests.checkpoints import MetaModel, random_model, write_meta

NAMES = [form.name for form in FORMATS]
PAIRS = [(a, b) for a in NAMES for b in NAMES if a != b]
# What a format cannot hold is refused, and tested where it is: these are told what they can.
FLOAT32_OF_LLAMA_2_ONLY = {"llama2c"}
BY_FILES = {"hf", "meta"}


@dataclass(frozen=True)
class Drawn:
    """One model, and how Meta's files of it are cut."""

    model: MetaModel = field(repr=False)
    shards: int


@st.composite
def models(draw: st.DrawFn, *, llama_2: bool) -> Drawn:
    shards = draw(st.sampled_from([1, 2, 4]))
    heads = shards * draw(st.integers(1, 3))
    kv_heads = heads if llama_2 else draw(st.sampled_from([n for n in range(shards, heads + 1) if heads % n == 0]))
    head_dim = draw(st.sampled_from([8, 16, 32]))
    version = "2" if llama_2 else draw(st.sampled_from(["3", "3.1", "3.2"]))
    model = random_model(
        version,
        seed=draw(st.integers(0, 9)),
        layers=draw(st.integers(1, 3)),
        dim=heads * head_dim,
        heads=heads,
        kv_heads=None if llama_2 else kv_heads,
        tied=False if llama_2 else draw(st.sampled_from([False, True])),
        dtype=torch.float32 if llama_2 else None,
    )
    return Drawn(model, shards)


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files written here: a process for each of hundreds of conversions is what would take the time."""

    @contextmanager
    def written(files: list[object], folder: Path) -> Iterator[None]:
        yield
        write_side_files(files, folder)  # type: ignore[arg-type]

    monkeypatch.setattr("llama_convert.convert.conversion.written_aside", written)


def converted(source: Path, folder: Path, to: str, version: str | None = None) -> Path:
    return convert_checkpoint(plan_conversion(source, to=to, llama_version=version), folder).folder


def content(checkpoint: Checkpoint) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every stored tensor: type, shape, bytes."""
    found = {}
    for file in checkpoint.files:
        data = file.path.read_bytes()
        for name, tensor in file.tensors.items():
            assert tensor.strides is None
            stored = data[tensor.offset : tensor.offset + tensor.nbytes]
            found[name] = (tensor.dtype.label, tensor.shape, stored)
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "conversion.json"  # has the date in it
    }


@pytest.mark.parametrize(("a", "b"), PAIRS, ids=lambda name: name)
def test_there_and_back(a: str, b: str) -> None:
    llama_2 = bool({a, b} & FLOAT32_OF_LLAMA_2_ONLY)

    @settings(
        max_examples=3,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn=models(llama_2=llama_2))
    def law(drawn: Drawn) -> None:
        with TemporaryDirectory() as name:
            _there_and_back(a, b, drawn, Path(name))

    law()


def _there_and_back(a: str, b: str, drawn: Drawn, place: Path) -> None:
    model = drawn.model
    source = write_meta(model, place / "source", shards=drawn.shards, tokenizer=model.tokenizer)
    first = converted(source, place / "first", a, model.version)
    second = converted(converted(first, place / "there", b), place / "second", a)
    before, after = open_checkpoint(first, model.version), open_checkpoint(second, model.version)
    assert content(before) == content(after)
    assert before.config == after.config
    if a in BY_FILES:
        third = converted(converted(second, place / "there again", b), place / "third", a)
        assert files(second) == files(third)


@pytest.mark.parametrize("b", [form.name for form in FORMATS if form.rotary is Rotary.PAIRS])
def test_rows_left_where_they_are_would_be_seen(b: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the way back thinks that b has Hugging Face's rotary order."""
    model = random_model("2" if b in FLOAT32_OF_LLAMA_2_ONLY else "3", dtype=torch.float32)
    source = write_meta(model, tmp_path / "source", tokenizer=model.tokenizer)
    first = converted(source, tmp_path / "first", "hf", model.version)
    there = open_checkpoint(converted(first, tmp_path / "there", b), model.version)
    wrong = replace(there, rotary=Rotary.HALVES)
    monkeypatch.setattr("llama_convert.convert.conversion.open_checkpoint", lambda *_: wrong)
    second = convert_checkpoint(plan_conversion(there.path, to="hf", request=Request()), tmp_path / "second").folder
    before, after = content(open_checkpoint(first)), content(open_checkpoint(second))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if name.endswith(("q_proj.weight", "k_proj.weight"))}
