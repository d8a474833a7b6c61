"""What no file of Meta's holds, `verify` reads from the certificate beside the output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_convert.convert import Request, convert_checkpoint, open_checkpoint, plan_conversion
from llama_convert.convert.claims import pad_of
from llama_convert.convert.tokenizers.special_tokens import special_tokens
from llama_convert.verify import verify
from tests.checkpoints import random_model, write_meta


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Scaled, of nobody's size, untied: 3.1 or 3.2."""
    model = random_model("3.1")
    return write_meta(model, tmp_path / "in", tokenizer=model.tokenizer)


def forget(folder: Path) -> None:
    path = folder / "conversion.json"
    values = json.loads(path.read_text())
    values["source"]["llama_version"] = "unknown"
    values["options"]["special_tokens"] = None
    path.write_text(json.dumps(values))


def failed(a: Path, b: Path) -> set[str]:
    return {level.name for level in verify(a, b).levels if level.verdict.value == "failed"}


def test_the_version_it_was_taken_as(source: Path, tmp_path: Path) -> None:
    target = convert_checkpoint(plan_conversion(source, llama_version="3.2"), tmp_path / "out").folder
    assert failed(source, target) == set()
    forget(target)
    assert failed(source, target) == {"structure", "logits"}


def test_the_names_that_special_tokens_were_given(source: Path, tmp_path: Path) -> None:
    names = (*special_tokens("3.1")[:-1], "<|llama|>")
    plan = plan_conversion(source, request=Request(special_tokens=names))
    target = convert_checkpoint(plan, tmp_path / "out").folder
    assert failed(source, target) == set()
    forget(target)
    assert failed(source, target) == {"tokenizer"}


def test_a_claim_that_the_source_contradicts_is_not_believed(source: Path, tmp_path: Path) -> None:
    """Then the two differ, which is for the levels to say."""
    target = convert_checkpoint(plan_conversion(source), tmp_path / "out").folder
    other = random_model("3")
    assert failed(write_meta(other, tmp_path / "other", tokenizer=other.tokenizer), target) >= {"structure", "logits"}


@pytest.mark.parametrize(("claimed", "believed"), [(767, 767), (0, 0), (768, None), (-1, None), ("767", None)])
def test_a_pad_is_believed_where_it_is_an_id(claimed: object, believed: int | None, source: Path) -> None:
    claims = {"source": {}, "options": {}, "vocabulary": {"pad": claimed}}
    (source / "conversion.json").write_text(json.dumps(claims))
    assert pad_of(open_checkpoint(source)) == believed
