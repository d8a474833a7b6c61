"""Which format a path is of: over the registry, so that no two formats ever claim the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_convert.convert import open_checkpoint
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.formats import FORMATS
from tests.checkpoints import random_model, write_meta
from tests.convert.support import converted

NAMES = [form.name for form in FORMATS if form.writer or form.name == "meta"]
# Recognised by both, and the first that is tried decides: MLX's folders are Hugging Face's with a mark.
SPECIAL = {"mlx": {"mlx", "hf"}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The same Llama 2 in every format."""
    root = tmp_path_factory.mktemp("formats")
    source = write_meta(random_model("2"), root / "source", tokenizer="sentencepiece")
    return {"meta": source} | {name: converted(source, root / name, name, "2") for name in NAMES if name != "meta"}


@pytest.mark.parametrize("name", NAMES)
def test_each_is_recognised_by_its_own_format_alone(name: str, folders: dict[str, Path]) -> None:
    assert {form.name for form in FORMATS if form.recognises(folders[name])} == SPECIAL.get(name, {name})
    assert open_checkpoint(folders[name]).format.name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_not_taken_for_one_of_another_format(name: str, folders: dict[str, Path]) -> None:
    """Each of its files by itself: the format's own weights, or nothing."""
    for path in folders[name].rglob("*"):
        if path.is_file():
            assert {form.name for form in FORMATS if form.recognises(path)} <= {name}, path.name


def test_all_in_one_folder_are_each_found(folders: dict[str, Path], tmp_path: Path) -> None:
    """A mark of a format is its own: beside another one's weights it does not go unseen."""
    for name in ("torchtune", "litgpt", "llama2c"):
        place = tmp_path / name
        place.mkdir()
        for path in (*folders["gguf"].iterdir(), *folders[name].iterdir()):
            (place / path.name).write_bytes(path.read_bytes())
        assert {form.name for form in FORMATS if form.recognises(place)} == {"gguf", name}


@pytest.mark.parametrize("kept", [("tokenizer.bin",), ("tokenizer.model",), ("tokenizer.json",), ()])
def test_without_weights_there_is_no_checkpoint(
    kept: tuple[str, ...], folders: dict[str, Path], tmp_path: Path
) -> None:
    for folder in folders.values():
        for name in kept:
            if (folder / name).is_file():
                (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert len(list(tmp_path.iterdir())) == len(kept)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        open_checkpoint(tmp_path)
