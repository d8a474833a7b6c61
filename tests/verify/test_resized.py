"""Contract: a padded model is the same model in every format, and its own tokens are what they were."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from llama_convert.convert import convert_checkpoint, pad_change, plan_conversion
from llama_convert.convert.formats import FORMATS
from llama_convert.verify import Verdict, verify, verify_resized
from tests.checkpoints import random_model, write_meta

NEW = partial(pad_change, token="<pad>", multiple_of=8)


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Path]]:
    """(version, format) -> a model of Meta's and, in that format, the same with a pad token and spare rows."""
    place = tmp_path_factory.mktemp("padded")
    made: dict[tuple[str, str], tuple[Path, Path]] = {}

    def found(version: str, to: str) -> tuple[Path, Path]:
        model = random_model(version, dtype=torch.float32 if version == "2" else None)
        source = place / version
        if not source.exists():
            write_meta(model, source, shards=2, tokenizer=model.tokenizer)
        if (version, to) not in made:
            plan = plan_conversion(source, to=to, llama_version=version, change=NEW)
            made[version, to] = source, convert_checkpoint(plan, place / f"{version}-{to}").folder
        return made[version, to]

    return found


EVERY = [(version, form.name) for version in ("2", "3") for form in FORMATS if (version, form.name) != ("3", "llama2c")]


@pytest.mark.parametrize(("version", "to"), EVERY)
def test_every_format_holds_the_same_padded_model(version: str, to: str, padded) -> None:
    source, folder = padded(version, to)
    assert all(level.verdict is Verdict.PASSED for level in verify_resized(source, folder, llama_version=version))
    report = verify(padded(version, "hf")[1], folder, llama_version=version)
    assert report.ok, [(level.name, level.findings) for level in report.levels]


def test_control_it_is_not_the_model_that_it_was(padded) -> None:
    source, folder = padded("3", "hf")
    report = verify(source, folder)
    assert not report.ok
    assert {"other-vocabulary", "vocabulary-off-by-one"} & {one.cause for one in report.diagnosis}
