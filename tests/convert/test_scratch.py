"""The book's format, both ways: judged by the book's own classes, Meta's Transformer and transformers."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.architecture import Rotary
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import UsageError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.convert.formats.scratch import SCRATCH
from llama_convert.convert.plan import make_plan
from tests.book_reference import book_classes, book_logits, book_names, book_state, imported_config
from tests.checkpoints import CASES, Case, random_model, write_meta
from tests.meta_reference import GATE, meta_logits, random_tokens, relative_difference, transformers_logits

POSITIONS = 256
VISIBLE = 50
# The book's classes have Llama 2's norm_eps written in them.
LLAMA_1 = [case for case in CASES if case.version == "1"]
POSSIBLE = [case for case in CASES if case.version != "1"]


def converted(source: Path, target: Path, to: str, version: str | None = None, **request: object) -> Path:
    plan = plan_conversion(source, to=to, request=Request(**request), llama_version=version)  # type: ignore[arg-type]
    return convert_checkpoint(plan, target).folder


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "scratch.pth", weights_only=True, mmap=True)


def difference(case: Case, folder: Path, kind: str = "plain", positions: int = POSITIONS) -> float:
    model = case.model()
    tokens = random_tokens(model.vocab, positions)
    found = book_logits(loaded(folder), imported_config(folder), tokens, kind)
    return relative_difference(meta_logits(model, tokens), found)


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("case", POSSIBLE, ids=str)
def test_from_meta_it_is_the_same_model(case: Case, meta_checkpoint, tmp_path: Path) -> None:
    """Strictly loaded by the class with the imported config; the file is a sound zip and a plain state dict."""
    folder = converted(meta_checkpoint(case), tmp_path / "out", "scratch", case.version)
    assert difference(case, folder) <= GATE
    assert zipfile.ZipFile(folder / "scratch.pth").testzip() is None
    assert type(loaded(folder)) is OrderedDict
    assert {tensor.dtype for tensor in loaded(folder).values()} == {imported_config(folder)["dtype"]}


@pytest.mark.parametrize("case", POSSIBLE, ids=str)
def test_from_hugging_face_and_back_it_is_the_same_model(case: Case, meta_checkpoint, tmp_path: Path) -> None:
    """hf -> scratch in the book's class, scratch -> hf in transformers; the second hf has the bytes of the first."""
    first = converted(meta_checkpoint(case), tmp_path / "first", "hf", case.version)
    folder = converted(first, tmp_path / "book", "scratch", case.version)
    assert difference(case, folder) <= GATE
    again = converted(folder, tmp_path / "again", "hf", case.version)
    model = case.model()
    tokens = random_tokens(model.vocab, POSITIONS)
    assert relative_difference(meta_logits(model, tokens), transformers_logits(again, tokens)) <= GATE
    for name in ("model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (first / name).read_bytes()


@pytest.mark.parametrize("kind", ["fast", "cached", "cached and fast"])
def test_every_class_of_the_book_computes_it(kind: str, meta_checkpoint, tmp_path: Path) -> None:
    case = case_named("3.2")
    folder = converted(meta_checkpoint(case), tmp_path / "out", "scratch", "3.2")
    assert difference(case, folder, kind) <= GATE


def test_at_2048_positions_with_the_scaling_of_llama_3_2(meta_checkpoint, tmp_path: Path) -> None:
    """Where another factor would be seen, and is: the negative control takes the 8 of Llama 3.1."""
    case = case_named("3.2")
    folder = converted(meta_checkpoint(case), tmp_path / "out", "scratch", "3.2")
    assert difference(case, folder, positions=2048) <= GATE
    wrong = (folder / "scratch_config.py").read_text().replace('"factor": 32.0', '"factor": 8.0')
    (folder / "scratch_config.py").write_text(wrong)
    assert difference(case, folder, positions=2048) > VISIBLE * GATE


def test_rows_left_in_metas_order_would_be_seen(meta_checkpoint, tmp_path: Path) -> None:
    case = case_named("3.1")
    plan = plan_conversion(meta_checkpoint(case), to="scratch", llama_version="3.1")
    wrong = make_plan(plan.source, replace(SCRATCH, rotary=Rotary.PAIRS), plan.request)
    convert_checkpoint(wrong, tmp_path / "out")
    assert difference(case, tmp_path / "out") > VISIBLE * GATE


@pytest.mark.parametrize("case", POSSIBLE, ids=str)
def test_the_file_is_what_torch_saves_of_the_class(case: Case, meta_checkpoint, tmp_path: Path) -> None:
    """Byte for byte: the tensors, their order, one storage for a tied pair."""
    folder = converted(meta_checkpoint(case), tmp_path / "out", "scratch", case.version)
    model = case.model()
    state = book_state(model)
    if model.tied:
        state["out_head.weight"] = state["tok_emb.weight"].detach()  # as state_dict() gives a tied pair
    torch.save(OrderedDict(state), tmp_path / "scratch.pth")
    assert (folder / "scratch.pth").read_bytes() == (tmp_path / "scratch.pth").read_bytes()
    assert list(state) == list(book_classes()["plain"](imported_config(folder)).state_dict())


@pytest.mark.parametrize("case", POSSIBLE, ids=str)
def test_the_second_generation_has_the_same_bytes(case: Case, meta_checkpoint, tmp_path: Path) -> None:
    first = converted(meta_checkpoint(case), tmp_path / "first", "scratch", case.version)
    second = converted(first, tmp_path / "second", "scratch", case.version)
    for path in first.iterdir():
        if path.name != "conversion.json":
            assert path.read_bytes() == (second / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", ["2", "3.1-4shards", "3.2", "3.2-untied"])
def test_read_again_every_tensor_is_metas(name: str, meta_checkpoint, tmp_path: Path) -> None:
    """Judged by the published inverse of the reordering, and by what the next conversion writes."""
    case = case_named(name)
    model = case.model()
    folder = converted(meta_checkpoint(case), tmp_path / "out", "scratch", case.version)
    state = loaded(folder)
    for book, meta in book_names(model.params["n_layers"]).items():
        weight = state[book]
        if book.endswith(("W_query.weight", "W_key.weight")):
            halves = weight.view(-1, 2, model.head_dim // 2, weight.shape[1])
            weight = halves.transpose(1, 2).reshape(weight.shape)
        assert torch.equal(weight, model.weights[meta]), book


def test_the_configs_say_the_same_in_both_files(meta_checkpoint, tmp_path: Path) -> None:
    """The keys are those of the book; JSON has the type by its name."""
    from llms_from_scratch.llama3 import LLAMA32_CONFIG_1B

    for name in ("2", "3.1"):
        folder = converted(meta_checkpoint(case_named(name)), tmp_path / name, "scratch", name)
        values = json.loads((folder / "scratch_config.json").read_text())
        assert imported_config(folder) == values | {"dtype": getattr(torch, values["dtype"])}
        assert values.keys() == LLAMA32_CONFIG_1B.keys()
        assert (values["rope_freq"] is None) == (name == "2")
        assert (values["rope_freq"] or {}).keys() in ({}.keys(), LLAMA32_CONFIG_1B["rope_freq"].keys())


def test_the_tokenizer_stays_metas_through_hugging_face(meta_checkpoint, tmp_path: Path) -> None:
    source = meta_checkpoint(case_named("3.1"))
    first = converted(source, tmp_path / "hf", "hf", "3.1")
    shutil.rmtree(first / "original")
    folder = converted(first, tmp_path / "book", "scratch", "3.1")
    assert (folder / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT16])
def test_another_type_is_of_all_tensors_and_of_the_config(dtype: DType, meta_checkpoint, tmp_path: Path) -> None:
    folder = converted(meta_checkpoint(case_named("3.1")), tmp_path / "out", "scratch", "3.1", dtype=dtype)
    wanted = getattr(torch, dtype.label)
    assert {tensor.dtype for tensor in loaded(folder).values()} == {wanted}
    assert imported_config(folder)["dtype"] is wanted


@pytest.mark.parametrize("exact", [True, False])
def test_norms_of_a_wider_type_are_rounded_and_it_is_said(exact: bool, tmp_path: Path) -> None:
    """The classes hold one type. Where the norms' values fit it, nothing is lost and nothing is said."""
    model = random_model("3.1")
    weights = {name: weight.float() if weight.ndim == 1 else weight for name, weight in model.weights.items()}
    if not exact:
        weights["norm.weight"] = weights["norm.weight"] + 2**-20
    write_meta(replace(model, weights=weights), tmp_path / "in", tokenizer="tiktoken")
    plan = plan_conversion(tmp_path / "in", to="scratch", llama_version="3.1")
    assert {step.expression.dtype for step in plan.steps} == {DType.BFLOAT16}
    assert [note for note in plan.notes if "rounded" in note] == (
        []
        if exact
        else [
            "1 tensor of a wider type rounded to bfloat16 (final norm, ...): the book's classes compute in one type. "
            "--dtype float32 keeps them exactly."
        ]
    )


@pytest.mark.parametrize("case", LLAMA_1, ids=str)
def test_llama_1_is_refused_for_its_eps(case: Case, meta_checkpoint) -> None:
    with pytest.raises(UsageError, match="norm_eps is 1e-06: the classes have 1e-05 written in them"):
        plan_conversion(meta_checkpoint(case), to="scratch", llama_version="1")


def test_heads_that_do_not_divide_the_model_are_refused(meta_checkpoint, tmp_path: Path) -> None:
    folder = converted(meta_checkpoint(case_named("3.1")), tmp_path / "hf", "hf", "3.1")
    plan = plan_conversion(folder, to="hf")
    source = replace(plan.source, config=replace(plan.source.config, head_dim=32))
    with pytest.raises(UsageError, match="cannot compute") as error:
        make_plan(source, SCRATCH, Request())
    assert error.value.problems == ("12 heads of 32 in 192: the classes' heads divide emb_dim",)


def test_from_llama_2_it_says_which_class_it_is_for(meta_checkpoint) -> None:
    plain, grouped, third = (
        plan_conversion(meta_checkpoint(case_named(name)), to="scratch", llama_version=version).notes
        for name, version in (("2", "2"), ("2-grouped-8shards", "2"), ("3", "3"))
    )
    assert [note for note in plain if "Llama3Model" in note and "grouped" not in note]
    assert [note for note in grouped if "Llama3Model" in note and "grouped" in note]
    assert third == ()


def test_a_tied_head_has_no_bytes_of_its_own(meta_checkpoint, tmp_path: Path) -> None:
    folder = converted(meta_checkpoint(case_named("3.2-tied-by-value")), tmp_path / "out", "scratch", "3.2")
    state = loaded(folder)
    assert state["out_head.weight"].data_ptr() == state["tok_emb.weight"].data_ptr()
    assert open_checkpoint(folder).config.tied
    assert "lm_head.weight" not in load_file(converted(folder, tmp_path / "hf", "hf") / "model.safetensors")
