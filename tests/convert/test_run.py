"""How bytes get from their file into the output: copied or changed on the way, and checksummed."""

from __future__ import annotations

import os
import zlib
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
from llama_convert.convert.run import Happening, Moved, Written, run
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


def carried_out(plan: Plan, folder: Path, events: list[Happening] | None = None) -> bytes:
    events = [] if events is None else events
    with Checks(plan.source, enabled=False) as checks:
        events += run(plan, folder, checks)
    assert sum(event.nbytes for event in events if isinstance(event, Moved)) == SIZE
    return (folder / "out").read_bytes()


@pytest.mark.parametrize(("source", "target"), [(PAGE, 2 * PAGE), (100, PAGE + 100), (64, 128)])
def test_bytes_are_copied_and_their_checksum_told(source: int, target: int, copying, tmp_path: Path) -> None:
    plan, wanted = copying(source, target)
    events: list[Happening] = []
    assert carried_out(plan, tmp_path, events) == wanted
    assert [event for event in events if isinstance(event, Written)] == [
        Written(file=0, step=0, crc32=zlib.crc32(wanted[target:]))
    ]


def test_a_file_that_shrinks_meanwhile_is_told(copying, tmp_path: Path) -> None:
    plan, _ = copying(64, 128)
    os.truncate(tmp_path / "raw", SIZE // 2)
    with pytest.raises(CheckpointError, match="ended at byte"):
        carried_out(plan, tmp_path)


def test_nothing_is_told_of_a_tensor_that_was_not_finished(copying, tmp_path: Path) -> None:
    """The run stops without an error of its own where a check has failed elsewhere."""
    plan, _ = copying(64, 128)
    with Checks(plan.source, enabled=True) as checks:
        checks.damaged = True
        assert list(run(plan, tmp_path, checks)) == []


def test_short_writes_are_finished(copying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: real(file, data[:1000], offset))
    plan, wanted = copying(64, 128)
    assert carried_out(plan, tmp_path) == wanted
