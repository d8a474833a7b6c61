"""Bytes mounted in place of a file: read through their source by everyone, or refused; never taken for zeros."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.serialization import config as serialization_config

from llama_convert.convert.blocks import OpenFiles, blocks
from llama_convert.convert.containers import gguf_writer
from llama_convert.convert.containers.gguf import read_gguf
from llama_convert.convert.containers.gguf_values import Array, Kind
from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.slices import DType, LocalFile, TensorFile, TensorSlice
from llama_convert.convert.containers.sources import FarError, byte_source, is_far, mounted
from llama_convert.convert.digests import SHA256, Extent, read_digests
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.expressions import Joined, Stored
from llama_convert.convert.integrity import crc32
from llama_convert.convert.sameness import same
from llama_convert.hub.pages import Pages
from tests.convert.support import raw

Store = Callable[..., TensorSlice]


class Far:
    """A real file's bytes under another path, counted."""

    def __init__(self, real: Path, path: Path) -> None:
        self.path = path
        self.real = LocalFile(real)
        self.size = self.real.size
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, nbytes: int) -> bytes:
        found = self.real.read(offset, nbytes)
        self.reads.append((offset, len(found)))
        return found

    @property
    def nbytes(self) -> int:
        return sum(length for _, length in self.reads)


@pytest.fixture
def far(tmp_path: Path) -> Callable[[Path], Far]:
    """real file -> the same, to be mounted at an empty file."""

    def made(real: Path) -> Far:
        path = tmp_path / "far" / real.name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return Far(real, path)

    return made


def test_a_mount_holds_for_its_block_and_for_every_thread(tmp_path: Path) -> None:
    real, path = tmp_path / "real", tmp_path / "path"
    real.write_bytes(b"real bytes")
    path.touch()
    source = Far(real, path)
    with mounted({path: source}):
        assert byte_source(path) is source
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: byte_source(path).read(0, 4)).result() == b"real"
        with pytest.raises(ValueError, match="mounted already"), mounted({path: source}):
            pass
        assert is_far(path), "the outer mount is still there"
    with pytest.raises(ZeroDivisionError), mounted({path: source}):
        raise ZeroDivisionError
    assert not is_far(path)
    assert byte_source(path).read(0, 4) == b""


def test_tensors_are_read_through_the_source(store: Store, far: Callable[[Path], Far]) -> None:
    tensor = torch.randn(300, 7)
    there = store(tensor)
    source = far(there.file)
    here = replace(there, file=source.path)
    with mounted({source.path: source}), OpenFiles() as files:
        assert b"".join(block.tobytes() for block in blocks(Stored(here), files, size=100)) == raw(tensor)
    with OpenFiles() as files, pytest.raises(CheckpointError, match="ended at byte 7"):
        list(blocks(Stored(here), files))


def _descriptor(file: TensorFile) -> object:
    with OpenFiles() as files:
        return files.descriptor(file.path)


def _strided(file: TensorFile) -> object:
    tensor = next(iter(file.tensors.values()))
    with OpenFiles() as files:
        return list(blocks(Stored(replace(tensor, strides=tensor.shape[::-1])), files))


@pytest.mark.parametrize("reading", [_descriptor, _strided])
def test_what_needs_a_real_file_is_refused(
    reading: Callable[[TensorFile], object], tmp_path: Path, far: Callable[[Path], Far]
) -> None:
    torch.save({"a": torch.ones(8, 8)}, tmp_path / "a.pth")
    source = far(tmp_path / "a.pth")
    with mounted({source.path: source}):
        file = read_pth(source)
        with pytest.raises(FarError, match="not on this machine"):
            reading(file)


def test_checksums_of_an_empty_stand_in_do_not_pass(tmp_path: Path, far: Callable[[Path], Far]) -> None:
    """Zeros are the case in which a stand-in of the right size would pass."""
    torch.save({"a": torch.zeros(8, 8)}, tmp_path / "a.pth")
    source = far(tmp_path / "a.pth")
    with mounted({source.path: source}):
        record = read_pth(source).tensors["a"].record
        assert record is not None
        assert crc32(replace(record, file=tmp_path / "a.pth")) == record.crc32
        assert crc32(record) != record.crc32
        extent = Extent(SHA256, ((record.offset, record.offset + record.nbytes),))
        assert read_digests(source.path, [extent]) == {extent: None}


# --- records of a `.pth` from its directory alone ---


@pytest.mark.parametrize("alignment", [64, 128, 4096])
def test_places_from_the_directory_are_those_of_the_headers(
    alignment: int, tmp_path: Path, far: Callable[[Path], Far]
) -> None:
    state = {f"layer.{size}": torch.zeros(size, dtype=torch.uint8) for size in range(1, 200)}
    with serialization_config.patch({"save.storage_alignment": alignment}):
        torch.save(state, tmp_path / "a.pth")
    near = read_pth(LocalFile(tmp_path / "a.pth"))
    source = far(tmp_path / "a.pth")
    with mounted({source.path: source}):
        found = read_pth(source)
    assert {name: tensor.offset for name, tensor in found.tensors.items()} == {
        name: tensor.offset for name, tensor in near.tensors.items()
    }
    assert len(source.reads) < 20, "no header was looked at"


def test_an_archive_in_another_layout_is_read_by_its_headers(tmp_path: Path, far: Callable[[Path], Far]) -> None:
    torch.save({"a": torch.ones(5), "b": torch.ones(6)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(tmp_path / "packed.pth", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    near = read_pth(LocalFile(tmp_path / "packed.pth"))
    source = far(tmp_path / "packed.pth")
    with mounted({source.path: source}):
        found = read_pth(source)
    assert [tensor.offset for tensor in found.tensors.values()] == [t.offset for t in near.tensors.values()]
    assert any(tensor.offset % 64 for tensor in near.tensors.values()), "the layout is another one"


def test_a_large_vocabulary_costs_little_more_than_its_header(tmp_path: Path, far: Callable[[Path], Far]) -> None:
    tokens = Array(Kind.STRING, [f"token number {number}" for number in range(110_000)])
    layout = gguf_writer.lay_out({"tokenizer.ggml.tokens": tokens}, [("a", DType.BFLOAT16, (4096, 4096))])
    with (tmp_path / "a.gguf").open("wb") as file:
        file.write(layout.header)
        file.truncate(layout.size)
    source = far(tmp_path / "a.gguf")
    with mounted({source.path: Pages(source, source.path)}):
        found = read_gguf(byte_source(source.path))
    assert found.file.tensors["a"].offset == len(layout.header)
    assert 2 << 20 < len(layout.header) < 4 << 20
    assert source.nbytes == 4 << 20, "1 MB, 2 MB, 4 MB, and nothing twice"


# --- equality ---


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., dict[str, TensorSlice]]:
    """(a, b) -> both in one `.pth`, each in a record of its own."""

    def made(a: torch.Tensor, b: torch.Tensor) -> dict[str, TensorSlice]:
        torch.save({"a": a, "b": b}, tmp_path / "pair.pth")
        return read_pth(LocalFile(tmp_path / "pair.pth")).tensors

    return made


def _equal_far(tensors: dict[str, TensorSlice], far: Callable[[Path], Far]) -> tuple[bool, int]:
    """Whether they are the same from afar, and the bytes that this took."""
    source = far(tensors["a"].file)
    a, b = (Stored(replace(tensor, file=source.path)) for tensor in tensors.values())
    with mounted({source.path: source}):
        return same(a, b), source.nbytes


def test_from_afar_checksums_decide(pair: Callable[..., Any], far: Callable[[Path], Far]) -> None:
    big = torch.randn(1000, 100)
    changed = big.clone()
    changed[777, 77] += 1
    assert _equal_far(pair(big, big.clone()), far) == (True, 0)
    assert _equal_far(pair(big, changed), far) == (False, 0)


def test_from_afar_samples_decide_where_there_are_no_checksums(
    pair: Callable[..., Any], far: Callable[[Path], Far]
) -> None:
    big = torch.randn(1000, 1000)
    for other, wanted in ((big.clone(), True), (torch.randn(1000, 1000), False)):
        found, nbytes = _equal_far({name: replace(t, record=None) for name, t in pair(big, other).items()}, far)
        assert found is wanted
        assert nbytes <= 6 * 4096


def test_on_this_machine_bytes_decide(
    pair: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal checksums prove nothing of damaged bytes; different ones are believed, and no byte is read."""
    big = torch.randn(1000, 100)
    tensors = pair(big, big.clone())
    a, b = (Stored(tensor) for tensor in tensors.values())
    assert same(a, b)
    data = bytearray((tmp_path / "pair.pth").read_bytes())
    data[tensors["b"].offset + 5000] ^= 1
    (tmp_path / "pair.pth").write_bytes(data)
    assert not same(a, b)
    a, b = (Stored(tensor) for tensor in pair(big, big + 1).values())
    monkeypatch.setattr(OpenFiles, "read_into", None)
    assert not same(a, b)


def test_checksums_of_joined_parts(tmp_path: Path, far: Callable[[Path], Far]) -> None:
    """Parts side by side on the same axis are compared one by one; cut another way, samples are."""
    whole = torch.randn(64, 64)
    torch.save(
        {str(n): part.clone() for n, part in enumerate((*whole.chunk(2), *whole.chunk(2, 1)))}, tmp_path / "p.pth"
    )
    source = far(tmp_path / "p.pth")
    with mounted({source.path: source}):
        rows, columns = (
            [Stored(tensor) for name, tensor in read_pth(source).tensors.items() if name in names]
            for names in ("01", "23")
        )
        source.reads.clear()
        assert same(Joined(tuple(rows), 0), Joined(tuple(map(_again, rows)), 0))
        assert not same(Joined(tuple(rows), 0), Joined(tuple(rows[::-1]), 0))
        assert source.reads == []
        assert same(Joined(tuple(rows), 0), Joined(tuple(columns), 1))
        assert source.reads != []


def _again(stored: Stored) -> Stored:
    """The same bytes, as if of another file's record."""
    record = stored.slice.record
    return Stored(replace(stored.slice, record=record and replace(record, name="other")))
