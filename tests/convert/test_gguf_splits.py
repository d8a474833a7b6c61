"""A GGUF model in several files: found whole from any of its parts, or refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from llama_convert.convert.containers.gguf import read_gguf
from llama_convert.convert.containers.gguf_splits import read_split, split_metadata, split_name, split_paths
from llama_convert.convert.containers.gguf_values import Kind, Scalar
from llama_convert.convert.containers.gguf_writer import lay_out
from llama_convert.convert.containers.slices import DType, LocalFile
from llama_convert.convert.errors import CheckpointError
from tests.convert.gguf_files import SMALL, written_by_us
from tests.convert.gguf_models import write_out


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A model of five tensors in three files, written by the gguf package."""
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama", split_max_tensors=2)
    writer.add_block_count(5)
    for number in range(5):
        writer.add_tensor(f"blk.{number}.weight", np.full((2, 3), number, np.float32))
    write_out(writer)
    return [tmp_path / f"x-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


def test_all_parts_are_found_from_any(parts):
    for part in parts:
        assert split_paths(part) == tuple(parts)
        files = read_split(part)
        assert [file.file.path for file in files] == parts
        assert [list(file.file.tensors) for file in files] == [
            ["blk.0.weight", "blk.1.weight"],
            ["blk.2.weight", "blk.3.weight"],
            ["blk.4.weight"],
        ]
        assert files[0].metadata["llama.block_count"] == Scalar(Kind.UINT32, 5)


def test_parts_are_written_as_the_package_does(parts):
    for number, part in enumerate(parts, 1):
        found = read_gguf(LocalFile(part))
        tensors = [(name, tensor.dtype, tensor.shape) for name, tensor in found.file.tensors.items()]
        plain = {key: value for key, value in found.metadata.items() if not key.startswith("split.")}
        header = lay_out(plain | split_metadata(number, 3, 5), tensors).header
        assert part.read_bytes().startswith(header)
        assert part.name == split_name("x", number, 3)


def test_a_file_alone_is_its_only_part(path):
    path.write_bytes(SMALL)
    assert split_paths(path) == (path,)
    assert [list(file.file.tensors) for file in read_split(path)] == [["a", "b", "c"]]
    only = path.rename(path.with_name("a-00001-of-00001.gguf"))
    assert split_paths(only) == (only,)
    assert len(read_split(only)) == 1
    # llama-gguf-split leaves its keys in what it merges, with a count of none.
    merged = split_metadata(3, 0, 1)
    path.write_bytes(written_by_us(merged, [("a", DType.FLOAT32, (1,))]))
    assert len(read_split(path)) == 1


def test_missing_parts_are_all_named(parts):
    parts[0].unlink()
    parts[1].unlink()
    with pytest.raises(CheckpointError, match="2 parts of 3 missing") as caught:
        read_split(parts[2])
    assert caught.value.problems == (parts[0].name, parts[1].name)


@pytest.mark.parametrize("name", ["x-00004-of-00003.gguf", "x-00000-of-00003.gguf", "x-00000-of-00000.gguf"])
def test_a_part_that_cannot_be_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="cannot be"):
        split_paths(tmp_path / name)


def test_parts_that_do_not_belong_together_are_refused(parts, tmp_path):
    parts[1].write_bytes(parts[0].read_bytes())
    with pytest.raises(CheckpointError, match="3 files that do not make one model") as caught:
        read_split(parts[0])
    assert caught.value.problems == (
        "x-00002-of-00003.gguf: split.no is 0, wanted 1",
        "blk.0.weight: in 2 parts",
        "blk.1.weight: in 2 parts",
    )
    parts[2].write_bytes(SMALL)
    with pytest.raises(CheckpointError) as caught:
        read_split(parts[0])
    assert "x-00003-of-00003.gguf: no split.count, wanted 3" in caught.value.problems
    assert "x-00001-of-00003.gguf: split.tensors.count is 5, found 7" in caught.value.problems
    alone = parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match="do not make one model") as caught:
        read_split(alone)
    assert caught.value.problems == (
        "renamed.gguf: split.count is 3, wanted 1",
        "renamed.gguf: split.tensors.count is 5, found 2",
    )
