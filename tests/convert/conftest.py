"""Files, tensors and mutations that the tests of this folder share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import Tensor

from llama_convert.convert.aside import write_side_files
from llama_convert.convert.containers.slices import TensorSlice
from llama_convert.convert.outputs import SideFile
from tests.convert.support import dtype_of, raw


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the one file of a test is to be."""
    return tmp_path / "file"


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., TensorSlice]:
    """(tensor, strided=False) -> a slice of a new file that holds it behind a few other bytes."""
    numbers = itertools.count()

    def write(tensor: Tensor, *, strided: bool = False) -> TensorSlice:
        path = tmp_path / f"{next(numbers)}.bin"
        kept = tensor.movedim(0, -1).contiguous() if strided else tensor.contiguous()
        path.write_bytes(b"before!" + raw(kept) + b"after")
        return TensorSlice(
            file=path,
            offset=7,
            dtype=dtype_of(tensor),
            shape=tuple(tensor.shape),
            strides=kept.movedim(-1, 0).stride() if strided else None,
        )

    return write


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files written here: a process for each of a hundred conversions is what would take the time."""

    @contextmanager
    def written(files: list[SideFile], folder: Path) -> Iterator[None]:
        yield
        write_side_files(files, folder)

    monkeypatch.setattr("llama_convert.convert.conversion.written_aside", written)
