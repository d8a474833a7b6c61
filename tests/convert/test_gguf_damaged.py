"""Nothing damaged is read, whatever the damage, and no header makes the reader swallow memory."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_convert.convert.containers.gguf import read_gguf
from llama_convert.convert.containers.gguf_values import Array, Kind, Scalar
from llama_convert.convert.containers.slices import LocalFile
from llama_convert.convert.errors import CheckpointError
from tests.convert.gguf_files import (
    LLAMA,
    SMALL,
    A,
    B,
    aligned,
    array,
    gguf_bytes,
    info,
    little_memory,
    opened,
    pair,
    text,
)  # fmt: skip
from tests.convert.support import EDITS, edited

FUZZ = settings(max_examples=400, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_the_sound_one_is_read(path):
    """The control for all damage below."""
    for version in (2, 3):
        found = opened(path, gguf_bytes([LLAMA], [A, B], version=version))
        assert found.metadata == {"general.architecture": Scalar(Kind.STRING, "llama")}
        assert {name: (t.shape, t.offset) for name, t in found.file.tensors.items()} == {
            "a": ((2, 4), 128 + 32),
            "b": ((2, 4), 128 + 64),
        }


def test_layouts_that_differ_but_are_sound_are_read(path):
    assert list(opened(path, gguf_bytes([], [B, A])).file.tensors) == ["b", "a"]
    assert opened(path, gguf_bytes([], [info("a", 0, ())])).file.tensors["a"].shape == ()
    closer = gguf_bytes([aligned(8)], [A, info("b", 32, (1,)), info("c", 40, (2,))], 48, alignment=8)
    assert [tensor.offset for tensor in opened(path, closer).file.tensors.values()] == [168, 200, 208]
    content = gguf_bytes([], [A, info("b", 32, (3,))])
    assert opened(path, content[:-20]).file.tensors  # without the padding after the last tensor
    assert opened(path, gguf_bytes([LLAMA])).file.tensors == {}
    assert opened(path, gguf_bytes([LLAMA]).rstrip(b"\0")).file.tensors == {}  # nor before none
    values = array(9, 2, array(0, 0) + array(9, 1, array(8, 1, text("é"))))
    nested = Array(Kind.ARRAY, [Array(Kind.UINT8, []), Array(Kind.ARRAY, [Array(Kind.STRING, ["é"])])])
    assert opened(path, gguf_bytes([pair("a", 9, values)])).metadata == {"a": nested}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"GGU", "no GGUF file: it starts with b'GGU'"),
        (b"PK\3\4" + bytes(100), "no GGUF file"),
        (b"tjgg" + bytes(100), "from before GGUF"),
        (b"GGUF\3\0\0\0", "truncated: 8 bytes"),
        (gguf_bytes([LLAMA], [A], version=1), "GGUF version 1, wanted 2 or 3"),
        (gguf_bytes([LLAMA], [A], version=4), "GGUF version 4, wanted 2 or 3"),
        (gguf_bytes([LLAMA], [A], version=0), "GGUF version 0, wanted 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "a big-endian GGUF file"),
        (gguf_bytes([LLAMA, LLAMA], [A]), "general.architecture: given twice"),
        (gguf_bytes([pair("", 0, b"\1")]), "metadata key 1 of 1: has no name"),
        (gguf_bytes([pair(b"\xff", 0, b"\1")]), r"metadata key 1 of 1: b'\\xff' is no name"),
        (gguf_bytes([LLAMA, pair("x.y", 13, bytes(8))]), "x.y: unknown value type 13"),
        (gguf_bytes([pair("x.y", 9, array(99, 1, bytes(8)))]), "x.y: unknown value type 99"),
        (gguf_bytes([pair("x.y", 7, b"\2")]), "x.y: a truth value that is neither 0 nor 1"),
        (gguf_bytes([pair("x.y", 9, array(7, 3, b"\0\1\2"))]), "x.y: a truth value"),
        (gguf_bytes([pair("x.y", 9, array(9, 1) * 100 + array(0, 0))]), "x.y: more than 8 arrays within each other"),
        (gguf_bytes([aligned(0)], [A]), r"general\.alignment is uint32 0, wanted a power of two"),
        (gguf_bytes([aligned(24)], [A]), r"general\.alignment is uint32 24, wanted"),
        (gguf_bytes([aligned(32, 10)], [A]), r"general\.alignment is uint64 32, wanted"),
        (gguf_bytes([pair("general.alignment", 8, text("32"))], [A]), r"general\.alignment is string '32'"),
        (gguf_bytes([pair("general.alignment", 9, array(4, 1, bytes(4)))], [A]), r"general\.alignment is uint32"),
        (gguf_bytes([aligned(2**31)], [A]), "a: outside the file, which has 160 bytes, wanted 2,147,483,680"),
        (gguf_bytes([], [A, A]), "a: given twice"),
        (gguf_bytes([], [A, info(b"\xff", 32)]), "tensor 2 of 2: .* is no name"),
        (gguf_bytes([], [A, info("b", 32, kind=4)]), r"b: type 4 \(q4_2, removed from ggml\)"),
        (gguf_bytes([], [A, info("b", 32, kind=9)]), r"b: type 9 \(q8_1, which ggml uses in memory only\)"),
        (gguf_bytes([], [A, info("b", 32, kind=36)]), r"b: type 36 \(iq4_nl_4_4, removed"),
        (gguf_bytes([], [A, info("b", 32, kind=41)]), r"b: type 41 \(q1_0, not supported\)"),
        (gguf_bytes([], [A, info("b", 32, kind=2**32 - 1)]), r"b: type 4294967295 \(unknown\)"),
        (gguf_bytes([], [A, info("b", 32, kind=2)]), "b: rows of 4 elements, but q4_0 stores them in blocks of 32"),
        (gguf_bytes([], [A, info("b", 32, (), kind=2)]), "b: rows of 1 elements"),
        (gguf_bytes([], [A, info("b", 32, (1, 1, 1, 1, 1))]), "b: more than 4 axes"),
        (gguf_bytes([], [A, info("b", 32, (1,) * 1000)]), "b: more than 4 axes"),
        (gguf_bytes([], [A, info("b", 32, (4, 0))]), r"b: \[0, 4\] holds nothing"),
        (gguf_bytes([], [A, info("b", 33)]), "b: starts 33 bytes into the data, no multiple of 32"),
        (gguf_bytes([], [A, info("b", 2**64 - 1)]), "b: starts 18,446,744,073,709,551,615 bytes into"),
        (gguf_bytes([], [A, info("b", 0)]), "b: starts at byte 128, but the bytes before it end at 160"),
        (gguf_bytes([], [info("a", 0, (9,)), B]), "b: starts at byte 160, but the bytes before it end at 192"),
        (gguf_bytes([], [A, info("b", 64)], 96), "b: starts at byte 192, but the bytes before it end at 160"),
        (gguf_bytes([], [B], 64), "b: starts at byte 128, but the bytes before it end at 96"),
        (gguf_bytes([], [A, B], 63), "b: outside the file, which has 191 bytes, wanted 192"),
        (gguf_bytes([], [A, B], 0), "a and 1 more: outside the file, which has 128 bytes, wanted 192"),
        (gguf_bytes([], [A, info("b", 32, (2**63, 2**63))]), "b: outside the file"),
        (gguf_bytes([], [A, B], 65), "the tensors end at byte 192, the file at 193"),
        (gguf_bytes([LLAMA], data=1), "the tensors end at byte 69, the file at 97"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage_is_refused(path, content, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(path, content)
    assert str(path) in caught.value.summary
    assert "\n" not in caught.value.summary
    assert caught.value.advice


def test_all_problems_are_told_at_once(path):
    infos = [A, info("b", 32, (33,), 2), info("b", 1, (0,)), info("c", 0), info("d", 2**40), info("e", 64, kind=99)]
    flag = pair("flag", 7, b"\7")
    with pytest.raises(CheckpointError, match=r"\(11 problems\)") as caught:
        opened(path, gguf_bytes([flag, flag, aligned(3)], infos))
    assert caught.value.problems == (
        "flag: a truth value that is neither 0 nor 1",
        "flag: given twice",
        "flag: a truth value that is neither 0 nor 1",
        "general.alignment is uint32 3, wanted a power of two as uint32",
        "b: rows of 33 elements, but q4_0 stores them in blocks of 32",
        "b: [0] holds nothing",
        "b: starts 1 bytes into the data, no multiple of 32",
        "b: given twice",
        "e: type 99 (unknown)",
        "c: starts at byte 352, but the bytes before it end at 384",
        "d: outside the file, which has 544 bytes, wanted 1,099,511,628,160",
    )


def test_a_file_cut_anywhere_is_refused(path):
    content = gguf_bytes([LLAMA, pair("t", 9, array(8, 2, text("ab") + text("c")))], [A, B])
    assert opened(path, content)
    for length in range(len(content)):
        with pytest.raises(CheckpointError):
            opened(path, content[:length])


HUGE = (2**28, 2**40, 2**60, 2**63, 2**64 - 1)


@pytest.mark.parametrize("count", HUGE)
@pytest.mark.parametrize("size", [1000, 1 << 40])
def test_absurd_counts_are_refused_at_once(path, count, size):
    """A small file, and a sparse one of a terabyte, whose zeros would be so many empty texts."""
    contents = {
        rf"{count:,} tensors and 1 metadata key": gguf_bytes([LLAMA], counts=(count, 1)),
        rf"1 tensors and {count:,} metadata key": gguf_bytes([LLAMA], [A], counts=(1, count)),
        "metadata key 1 of 1": gguf_bytes([struct.pack("<Q", count)], counts=(0, 1)),
        "tensor 1 of 1": gguf_bytes([LLAMA], [struct.pack("<Q", count)]),
        "long.text": gguf_bytes([pair("long.text", 8, struct.pack("<Q", count))]),
        "long.texts": gguf_bytes([pair("long.texts", 9, array(8, count))]),
        "long.numbers": gguf_bytes([pair("long.numbers", 9, array(0, count))]),
        "long.arrays": gguf_bytes([pair("long.arrays", 9, array(9, count))]),
        "inner": gguf_bytes([pair("inner", 9, array(8, 2, text("") + struct.pack("<Q", count)))]),
    }
    for words, content in contents.items():
        path.write_bytes(content)
        with path.open("r+b") as file:
            file.truncate(size)
        with little_memory(), pytest.raises(CheckpointError, match=words) as caught:
            read_gguf(LocalFile(path))
        assert "damaged or truncated GGUF header" in caught.value.summary


def test_as_many_axes_as_there_are_bytes(path):
    content = gguf_bytes([], [text("a") + struct.pack("<I", 2**32 - 1)])
    with little_memory(), pytest.raises(CheckpointError, match="header: a would end at byte"):
        opened(path, content)


@pytest.mark.parametrize(
    "content",
    [
        gguf_bytes([pair("a", 9, array(8, 125_000, bytes(1_000_000)))]),
        gguf_bytes([pair("a", 9, array(8, 100_000, (text("éé") * 100_000)))]),
        gguf_bytes([pair("a", 9, array(9, 80_000, array(0, 0) * 80_000))]),
        gguf_bytes([pair("a", 9, array(7, 1_000_000, bytes(1_000_000)))]),
        gguf_bytes([], [info("", 0, ())] * 40_000, 32),
        gguf_bytes([], [info(str(number), 32 * number, ()) for number in range(15_000)]),
        gguf_bytes([pair(str(number), 0, b"\1") for number in range(50_000)]),
        gguf_bytes([], [info("a", 0, (1,) * 125_000)]),
    ],
    ids=["empty texts", "short texts", "empty arrays", "bools", "one name", "small tensors", "keys", "axes"],
)
def test_what_costs_the_most_memory(path, content):
    """A megabyte of what is smallest in the file and largest in memory."""
    path.write_bytes(content)
    with little_memory(), suppress(CheckpointError):
        read_gguf(LocalFile(path))


def test_a_header_beyond_all_measure_is_refused(path):
    with path.open("wb") as file:
        file.write(gguf_bytes([pair("zeros", 9, array(0, 150_000_000))]))
        file.truncate(200_000_000)
    with pytest.raises(CheckpointError, match=r"zeros would end at byte .* no header is longer than 100,000,000 bytes"):
        read_gguf(LocalFile(path))


class Shrinking(LocalFile):
    """A file that loses its second half while it is read."""

    def read(self, offset: int, nbytes: int) -> bytes:
        return super().read(offset, nbytes)[:500_000]


def test_a_file_that_shrinks_is_refused(path):
    path.write_bytes(gguf_bytes([pair("a", 9, array(0, 3_000_000, bytes(3_000_000)))]))
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        read_gguf(Shrinking(path))


def check_read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with little_memory(), suppress(CheckpointError):
        found = read_gguf(LocalFile(path))
        ends = 0
        for tensor in sorted(found.file.tensors.values(), key=lambda tensor: tensor.offset):
            assert tensor.offset >= ends
            ends = tensor.offset + tensor.nbytes
            assert ends <= len(content)


@FUZZ
@given(edits=EDITS)
def test_a_damaged_file_is_read_or_refused(path, edits):
    check_read_or_refused(path, edited(SMALL, edits))


@FUZZ
@given(
    places=st.lists(
        st.tuples(
            st.integers(0, len(SMALL) - 9),
            st.sampled_from([1, 4, 8]),
            st.integers(0, 40) | st.sampled_from([2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_numbers_changed_anywhere_are_read_or_refused(path, places):
    content = bytearray(SMALL)
    for place, width, number in places:
        content[place : place + width] = (number % 256**width).to_bytes(width, "little")
    check_read_or_refused(path, bytes(content))


def test_every_single_byte_changed_is_read_or_refused(path):
    for place in range(len(SMALL) - 128):
        for change in (1, 0x80, 0xFF):
            content = bytearray(SMALL)
            content[place] ^= change
            with suppress(CheckpointError):
                opened(path, bytes(content))
