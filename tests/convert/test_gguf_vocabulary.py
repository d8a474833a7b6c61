"""Vocabularies in GGUF files that others wrote: the same tokenizer as Meta's files, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf import GGMLQuantizationType as Type

from llama_convert.convert import plan_conversion
from llama_convert.convert.errors import CheckpointError
from llama_convert.verify import verify
from tests.checkpoints import CASES, Case, random_model
from tests.convert.gguf_models import vocabulary_of, write_theirs
from tests.convert.support import converted, small_files

BY_NAME = {case.name: case for case in CASES}
Checkpoint = Callable[[Case], Path]


def test_a_vocabulary_of_others_gives_the_same_files(meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """tokenizer.json from the package's keys is the one from Meta's tokenizer.model."""
    path = tmp_path / "a.gguf"
    write_theirs(
        path, random_model("2"), lambda name: Type.BF16, vocabulary=vocabulary_of(meta_checkpoint(BY_NAME["2"]))
    )
    straight = small_files(converted(meta_checkpoint(BY_NAME["2"]), tmp_path / "hf", "hf"))
    assert small_files(converted(path, tmp_path / "out", "hf")) == straight


def test_kinds_as_llama_cpp_takes_them_from_a_config(meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Its converter makes <unk> a control token too, and gives named tokens a score of -1000: the same model."""

    def changed(writer: gguf.GGUFWriter) -> None:
        vocabulary_of(source)(writer)
        values = writer.kv_data[0]
        values["tokenizer.ggml.token_type"].value[0] = 3
        values["tokenizer.ggml.scores"].value[:3] = [-1000.0] * 3

    path, source = tmp_path / "a.gguf", meta_checkpoint(BY_NAME["2"])
    write_theirs(path, BY_NAME["2"].model(), lambda name: Type.BF16, vocabulary=changed)
    straight = small_files(converted(source, tmp_path / "hf", "hf"))
    assert small_files(converted(path, tmp_path / "out", "hf")) == straight
    assert verify(source, path, ("tokenizer",)).ok


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("2", "scores", None),
        ("2", "token_type", [1, 2]),
        ("2", "tokens", [3, 4]),
        ("3.1", "merges", None),
        ("3.1", "merges", ["no such"]),
        ("3.1", "merges", ["one"]),
        ("3.1", "token_type", None),
    ],
)
def test_a_damaged_vocabulary(name: str, key: str, value: Any, meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Refused by the conversion and by the proof, each in its own words; never a bug's traceback."""

    def changed(writer: gguf.GGUFWriter) -> None:
        vocabulary_of(meta_checkpoint(BY_NAME[name]))(writer)
        del writer.kv_data[0][f"tokenizer.ggml.{key}"]
        if value is not None:
            writer.add_array(f"tokenizer.ggml.{key}", value)

    path = tmp_path / "a.gguf"
    write_theirs(path, BY_NAME[name].model(), vocabulary=changed)
    with pytest.raises(CheckpointError):
        plan_conversion(path)
    with pytest.raises(CheckpointError, match=r"its vocabulary cannot be run|cannot read it"):
        verify(path, levels=("tokenizer",))
