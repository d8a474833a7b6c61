"""`.pth` files of training runs: the state dict under a known name, the rest named and left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.slices import LocalFile, TensorFile
from llama_convert.convert.errors import CheckpointError
from tests.convert.support import gather, raw

KNOWN = ("model_state_dict", "model")
STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4, dtype=torch.bfloat16)}
OTHERS = {"optimizer": {"state": {0: {"step": torch.ones(()), "mean": torch.ones(7)}}, "groups": [{"lr": 1e-3}]}}


def read(path: Path, content: Any, legacy: bool) -> TensorFile:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return read_pth(LocalFile(path), KNOWN)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", KNOWN)
def test_the_tensors_under_a_known_name(name: str, legacy: bool, tmp_path: Path) -> None:
    file = read(tmp_path / "x.pth", {"epoch": 1, **OTHERS, name: STATE, 7: None}, legacy)
    assert {key: gather(tensor) for key, tensor in file.tensors.items()} == {key: raw(t) for key, t in STATE.items()}
    assert file.beside == ("epoch", "optimizer", "7")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_plain_state_dict_is_read_as_before(legacy: bool, tmp_path: Path) -> None:
    file = read(tmp_path / "x.pth", STATE, legacy)
    assert file.tensors.keys() == STATE.keys()
    assert file.beside == ()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "content",
    [
        {"model": STATE, "model_state_dict": STATE},  # which of them?
        {"model": STATE, "c": torch.ones(2)},  # tensors on both floors
        {"weights": STATE},
        {"model": {"inner": STATE}},
    ],
)
def test_what_is_ambiguous_or_unknown_is_refused(content: Any, legacy: bool, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read(tmp_path / "x.pth", content, legacy)


def test_names_are_only_looked_under_where_asked(tmp_path: Path) -> None:
    torch.save({"model": STATE}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_pth(LocalFile(tmp_path / "x.pth"))


def test_lists_within_themselves_and_within_many_end(tmp_path: Path) -> None:
    """Walking them as a tree would take forever, or all memory."""
    own: list[Any] = []
    own.append(own)
    many: list[Any] = [torch.ones(2)]
    for _ in range(100):
        many = [many, many]
    file = read(tmp_path / "x.pth", {"model": STATE, "own": own, "many": many}, True)
    assert file.beside == ("own", "many")
