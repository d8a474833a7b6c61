"""How bytes get from their file into the output: by the kernel, through a buffer, or changed on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llama_convert.convert import Plan, plan_conversion
from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.containers.slices import DType, TensorFile, TensorSlice
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.expressions import Stored
from llama_convert.convert.integrity import Checks
from llama_convert.convert.outputs import Step, Tensor, WeightFile
from llama_convert.convert.run import Moved, run
from tests.checkpoints import CASES

PAGE = 4096
SIZE = 5 * PAGE + 100


@pytest.fixture
def copying(meta_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[[int, int], tuple[Plan, bytes]]:
    """A plan that copies SIZE bytes of a plain file from one offset to another, and the file it must give."""
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(4 * SIZE))

    def made(source: int, target: int) -> tuple[Plan, bytes]:
        plan = plan_conversion(meta_checkpoint(CASES[3]))
        tensor = TensorSlice(file=raw, offset=source, dtype=DType.UINT8, shape=(SIZE,))
        file = TensorFile(path=raw, size=4 * SIZE, tensors={"raw": tensor})
        step = Step(Tensor((Weight(Role.TOKENS),), "raw", Stored(tensor)), target)
        output = WeightFile(name="out", fixed=((0, b"h" * target),), steps=(step,), size=target + SIZE)
        wanted = b"h" * target + raw.read_bytes()[source : source + SIZE]
        return replace(plan, source=replace(plan.source, files=(file,)), files=(output,)), wanted

    return made


def carried_out(plan: Plan, folder: Path) -> bytes:
    with Checks(plan.source, enabled=False) as checks:
        events = list(run(plan, folder, checks))
    assert sum(event.nbytes for event in events if isinstance(event, Moved)) == SIZE
    return (folder / "out").read_bytes()


@pytest.mark.parametrize(
    ("source", "target", "kernel"), [(PAGE, 2 * PAGE, True), (100, PAGE + 100, True), (64, 128, False)]
)
def test_the_kernel_copies_where_pages_lie_alike(
    source: int, target: int, kernel: bool, copying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, wanted = copying(source, target)
    calls: list[int] = []
    real = os.copy_file_range
    monkeypatch.setattr(os, "copy_file_range", lambda *given: calls.append(1) or real(*given))
    assert carried_out(plan, tmp_path) == wanted
    assert bool(calls) is kernel


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_buffer_does_it_where_the_kernel_cannot(
    number: int, copying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    plan, wanted = copying(PAGE, PAGE)
    assert carried_out(plan, tmp_path) == wanted


def test_an_error_of_the_disk_is_not_hidden(copying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "copy_file_range", fail)
    with pytest.raises(OSError, match="Input/output"):
        carried_out(copying(PAGE, PAGE)[0], tmp_path)


def test_a_file_that_shrinks_meanwhile_is_told(copying, tmp_path: Path) -> None:
    plan, _ = copying(64, 128)
    os.truncate(tmp_path / "raw", SIZE // 2)
    with pytest.raises(CheckpointError, match="ended at byte"):
        carried_out(plan, tmp_path)


def test_short_writes_are_finished(copying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: real(file, data[:1000], offset))
    plan, wanted = copying(64, 128)
    assert carried_out(plan, tmp_path) == wanted
