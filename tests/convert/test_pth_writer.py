"""The bytes of torch.save, from names, types, shapes and CRCs alone; zipfile, torch.load and our reader agree."""

from __future__ import annotations

import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.serialization import skip_data
from torch.utils.serialization import config

from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.pth_writer import Layout, archive_name, lay_out
from llama_convert.convert.containers.slices import DType, LocalFile
from tests.convert.support import dtype_of, gather, raw

PER_TEST = settings(deadline=4000, suppress_health_check=[HealthCheck.function_scoped_fixture])
SAME_LAYOUT = pytest.mark.skipif(
    not hasattr(config.save, "storage_alignment"), reason="torch before 2.7 lays these files out differently"
)
DTYPES = [dtype for dtype in DType if dtype.block == 1]
# A name that reads like another string of the pickle may share its place there: which do is up to CPython.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: not name.isdigit())
SHAPES = st.lists(st.integers(0, 4), max_size=5).map(tuple)
TENSORS = st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=8)
TIES = st.lists(st.tuples(NAMES, st.integers(0, 20), st.integers(0, 20)), max_size=3)


def random_tensor(dtype: DType, shape: tuple[int, ...]) -> Tensor:
    numbers = torch.randint(0, 2 if dtype is DType.BOOL else 256, (*shape, dtype.nbytes), dtype=torch.uint8)
    return numbers.view(getattr(torch, dtype.label)).reshape(shape)


def tied(values: Mapping[str, Tensor], ties: list[tuple[str, int, int]]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The values with some under a second name, put anywhere among them; and what is an alias of what."""
    items, aliases = list(values.items()), {}
    for name, owner, place in ties if values else []:
        if name not in dict(items):
            aliases[name] = list(values)[owner % len(values)]
            items.insert(place % len(items), (name, values[aliases[name]].detach()))
    return dict(items), aliases


def layout_of(stem: str, values: Mapping[str, Tensor], aliases: Mapping[str, str]) -> Layout:
    return lay_out(stem, [(name, dtype_of(value), tuple(value.shape)) for name, value in values.items()], aliases)


def assembled(layout: Layout, values: Mapping[str, Tensor], crcs: Mapping[str, int] | None = None) -> bytes:
    """The whole file; every byte of it written exactly once."""
    data = {name: raw(values[name]) for name, _ in layout.offsets}
    true = {name: zlib.crc32(piece) for name, piece in data.items()}
    pieces = [(0, layout.header), *((offset, data[name]) for name, offset in layout.offsets)]
    pieces += layout.trailer(true | dict(crcs or {}))
    content = b""
    for offset, piece in sorted(pieces, key=lambda place: (place[0], len(place[1]))):
        assert offset == len(content)
        content += piece
    assert len(content) == layout.size
    return content


def write(path: Path, values: Mapping[str, Tensor], aliases: Mapping[str, str] | None = None) -> Path:
    path.write_bytes(assembled(layout_of(archive_name(path.name), values, aliases or {}), values))
    return path


def saved(path: Path, values: Mapping[str, Tensor]) -> bytes:
    torch.save(OrderedDict(values), path)
    return path.read_bytes()


def many(count: int) -> dict[str, Tensor]:
    return {f"layers.{number}.weight": torch.full((3,), number, dtype=torch.bfloat16) for number in range(count)}


@SAME_LAYOUT
@PER_TEST
@given(tensors=TENSORS, ties=TIES)
@example(tensors={dtype.label: (dtype, (2, 3)) for dtype in DTYPES}, ties=[])
@example(tensors={"tok_embeddings.weight": (DType.BFLOAT16, (5, 2))}, ties=[("output.weight", 0, 0)])
@example(tensors={"żółć.日本🦙\x00\n": (DType.FLOAT8_E4M3, ()), "Cpu": (DType.UINT32, (70_000,))}, ties=[])
@example(tensors={"empty": (DType.FLOAT32, (2, 0, 3)), "stored": (DType.INT8, (300,))}, ties=[("too", 0, 1)])
def test_the_file_is_torchs(tmp_path, tensors, ties):
    values, aliases = tied({name: random_tensor(*kind) for name, kind in tensors.items()}, ties)
    theirs = saved(tmp_path / "consolidated.00.pth", values)
    assert assembled(layout_of("consolidated.00", values, aliases), values) == theirs


@SAME_LAYOUT
@pytest.mark.parametrize("count", [1, 2, 7, 8, 999, 1000, 1001, 1002, 2001, 2400])
def test_so_is_one_of_many_tensors(tmp_path, count):
    """Around 1000 the pickle starts another batch; at 8, 24, ... records the names' order in the id changes."""
    values = many(count)
    assert assembled(layout_of("a", values, {}), values) == saved(tmp_path / "a.pth", values)


@SAME_LAYOUT
@pytest.mark.parametrize("name", ["a.pth", "consolidated.03.pth", "none", "a..b", "ż.pth"])
def test_the_archives_name_is_torchs(tmp_path, name):
    assert write(tmp_path / name, many(1)).read_bytes() == saved(tmp_path / name, many(1))


@PER_TEST
@given(tensors=TENSORS.filter(bool), ties=TIES)
def test_everyone_reads_it(tmp_path, tensors, ties):
    values, aliases = tied({name: random_tensor(*kind) for name, kind in tensors.items()}, ties)
    path = write(tmp_path / "a.pth", values, aliases)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    for mmap in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mmap)
        assert list(loaded) == list(values)
        assert {name: raw(value) for name, value in loaded.items()} == {n: raw(value) for n, value in values.items()}
        for alias, owner in aliases.items():
            assert loaded[alias].data_ptr() == loaded[owner].data_ptr()


@PER_TEST
@given(tensors=TENSORS, ties=TIES)
def test_our_reader_finds_what_was_laid_out(tmp_path, tensors, ties):
    full = {name: (dtype, tuple(size + 1 for size in shape)) for name, (dtype, shape) in tensors.items()}
    values, aliases = tied({name: random_tensor(*kind) for name, kind in full.items()}, ties)
    found = read_pth(LocalFile(write(tmp_path / "a.pth", values, aliases))).tensors
    assert list(found) == list(values)
    offsets = dict(layout_of("a", values, aliases).offsets)
    for name, value in values.items():
        assert gather(found[name]) == raw(value)
        assert found[name].offset == offsets[aliases.get(name, name)]
        assert found[name].record.crc32 == zlib.crc32(raw(value))
    assert len({tensor.record for tensor in found.values()}) == len(values) - len(aliases)


def test_an_alias_has_no_bytes_of_its_own():
    shape = (DType.FLOAT32, (1000,))
    layout = lay_out("a", [("b", *shape), ("a", *shape)], {"b": "a"})
    assert [name for name, _ in layout.offsets] == ["a"]
    assert layout.size < 2 * 4000


@pytest.mark.parametrize("name", ["layers.0.weight", "layers.2.weight"])
def test_a_wrong_crc_is_found_and_named(tmp_path, name):
    """The control for what testzip says above."""
    values = many(3)
    layout = layout_of("a", values, {})
    path = tmp_path / "a.pth"
    path.write_bytes(assembled(layout, values, {name: 1}))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() == f"a/data/{list(values).index(name)}"


def test_a_crc_that_is_not_given_is_no_zero():
    with pytest.raises(KeyError, match="b"):
        lay_out("a", [("a", DType.INT8, (0,)), ("b", DType.INT8, (1,))]).trailer({})


# --- beyond 4 GB: files with holes, so that they take neither disk nor time -----------------------

LARGE = {
    "begin": (DType.UINT8, (5,)),
    "4 GB and a bit": (DType.UINT8, ((1 << 32) + 3,)),
    "beyond": (DType.BFLOAT16, (1000, 1 << 20)),
    "": (DType.FLOAT32, (0,)),
    "end": (DType.FLOAT32, (2, 2)),
}


@pytest.fixture
def holes(tmp_path) -> dict[str, Tensor]:
    """Tensors of zeros that live in a file without content."""
    made = {}
    for place, (name, (dtype, shape)) in enumerate(LARGE.items()):
        count = torch.Size(shape).numel()
        path = tmp_path / f"zeros {place}"
        path.touch()
        mapped = torch.from_file(str(path), shared=True, size=count * dtype.nbytes, dtype=torch.uint8)
        made[name] = mapped.view(getattr(torch, dtype.label)).reshape(shape)
    return made


@SAME_LAYOUT
def test_beyond_4_gb_it_is_torchs_layout(tmp_path, holes):
    """torch writes no tensors under skip_data, and 0 for their CRCs."""
    path = tmp_path / "a.pth"
    with skip_data():
        torch.save(OrderedDict(holes), path)
    layout = lay_out("a", [(name, *kind) for name, kind in LARGE.items()])
    assert path.stat().st_size == layout.size > 6_000_000_000
    for offset, piece in [(0, layout.header), *layout.trailer(dict.fromkeys(LARGE, 0))]:
        assert LocalFile(path).read(offset, len(piece)) == piece


def test_beyond_4_gb_it_is_read(tmp_path):
    layout = lay_out("a", [(name, *kind) for name, kind in LARGE.items() if name])
    path = tmp_path / "a.pth"
    ones = torch.ones(2, 2)
    with path.open("wb") as file:
        file.truncate(layout.size)
        crcs = dict.fromkeys(LARGE, 0) | {"begin": zlib.crc32(bytes(5)), "end": zlib.crc32(raw(ones))}
        for offset, piece in [(0, layout.header), *layout.trailer(crcs)]:
            file.seek(offset)
            file.write(piece)
        file.seek(dict(layout.offsets)["end"])
        file.write(raw(ones))
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
        assert records["a/data/1"].file_size == records["a/data/1"].compress_size == (1 << 32) + 3
        assert records["a/data/3"].header_offset > 6_000_000_000
        assert archive.read("a/data/0") == bytes(5)
        assert archive.read("a/data/3") == raw(ones)
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert loaded["4 GB and a bit"].shape == ((1 << 32) + 3,)
    assert loaded["beyond"].shape == (1000, 1 << 20)
    assert torch.equal(loaded["end"], ones)
    assert {name: tensor.offset for name, tensor in read_pth(LocalFile(path)).tensors.items()} == dict(layout.offsets)
