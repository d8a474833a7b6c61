"""Many digests from one reading: each is that of its own bytes, whatever else is wanted of the file."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_convert.convert import digests as module
from llama_convert.convert.digests import CRC32, GIT_SHA1, MD5, SHA256, Extent, all_of, digests, gaps, read_digests

SIZE = 5000
SPANS = st.lists(st.integers(0, SIZE), min_size=2, max_size=8, unique=True).map(
    lambda cuts: tuple(zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False))
)
ORACLES = {
    CRC32: lambda data: f"{zlib.crc32(data):08x}",
    MD5: lambda data: hashlib.md5(data).hexdigest(),
    SHA256: lambda data: hashlib.sha256(data).hexdigest(),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digests") / "file"
    path.write_bytes(os.urandom(SIZE))
    return path


@settings(max_examples=60, deadline=None)
@given(wanted=st.lists(st.tuples(st.sampled_from(sorted(ORACLES)), SPANS), max_size=6), chunk=st.sampled_from([7, 999]))
def test_each_digest_is_of_its_own_bytes(wanted, chunk: int, file: Path) -> None:
    """Whether they overlap or not, and wherever the buffer ends."""
    data, extents = file.read_bytes(), [Extent(*found) for found in wanted]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        found = read_digests(file, extents)
    for extent in extents:
        assert found[extent] == ORACLES[extent.algorithm](b"".join(data[a:b] for a, b in extent.spans))


@given(spans=SPANS)
def test_gaps_are_what_is_left(spans) -> None:
    covered = [place for a, b in (*spans, *gaps(reversed(spans), SIZE)) for place in range(a, b)]
    assert sorted(covered) == list(range(SIZE))


def test_git_names_a_blob_alike(tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("hello\n")
    (tmp_path / "empty").write_text("")
    names = {"hello": "ce013625030ba8dba906f756967f9e9ca394464a", "empty": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}
    for name, wanted in names.items():
        extent = Extent(GIT_SHA1, all_of(tmp_path / name))
        assert read_digests(tmp_path / name, [extent]) == {extent: wanted}


def test_what_the_file_does_not_have_has_no_digest(file: Path) -> None:
    inside, beyond = Extent(CRC32, ((0, SIZE),)), Extent(CRC32, ((SIZE - 10, SIZE + 10),))
    found = digests({file: [inside, beyond]})
    assert found[file, inside] is not None
    assert found[file, beyond] is None


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_is_read_twice(whole: bool, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    real = os.preadv

    def counted(*given: object) -> int:
        counts.append(real(*given))  # type: ignore[arg-type]
        return counts[-1]

    monkeypatch.setattr(module.os, "preadv", counted)
    monkeypatch.setattr(module, "_SHARE", 100)
    extents = [Extent(CRC32, ((place, place + 50),)) for place in range(0, SIZE, 50)]
    everything = [Extent(algorithm, all_of(file)) for algorithm in (MD5, SHA256)] if whole else []
    found = digests({file: [*extents, *everything, *extents]})
    assert sum(counts) == SIZE
    data = file.read_bytes()
    assert all(found[file, extent] == ORACLES[CRC32](data[slice(*extent.spans[0])]) for extent in extents)
