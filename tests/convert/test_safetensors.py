"""Headers byte for byte as the library writes them; nothing damaged is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llama_convert.convert.containers.safetensors import lay_out, read_safetensors
from llama_convert.convert.containers.slices import DType, LocalFile, TensorFile
from llama_convert.convert.errors import CheckpointError
from tests.convert.support import EDITS, edited, gather, raw

PER_TEST = settings(deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
TENSORS = st.dictionaries(
    NAMES, st.tuples(st.sampled_from([dtype for dtype in DType if dtype.code]), SHAPES), max_size=8
)


def filled(tensors: Mapping[str, tuple[DType, tuple[int, ...]]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, (dtype, shape) in tensors.items():
        numbers = torch.randint(0, 2, (*shape, dtype.nbytes), dtype=torch.uint8, generator=generator)
        if dtype is not DType.BOOL:
            numbers *= 77
        made[name] = numbers.view(getattr(torch, dtype.label)).reshape(shape)
    return made


@PER_TEST
@given(tensors=TENSORS)
@example(tensors={'"\\/\b\f\n\r\t\x00\x1f\x7f\u2028żółć🦙\U0010ffff': (DType.FLOAT32, (2,))})
@example(tensors={dtype.code: (dtype, (3,)) for dtype in DType if dtype.code})
@example(tensors=dict.fromkeys(("layers.10", "layers.2", "Z", "é", "\uffff", "🦙"), (DType.BFLOAT16, (1,))))
def test_the_file_is_the_librarys(tmp_path, tensors):
    values = filled(tensors)
    theirs = tmp_path / "theirs.safetensors"
    save_file(values, theirs, metadata={"format": "pt"})
    layout = lay_out([(name, dtype, shape) for name, (dtype, shape) in tensors.items()])
    content = bytearray(layout.header.ljust(layout.size, b"?"))
    for name, offset in layout.offsets:
        data = raw(values[name])
        content[offset : offset + len(data)] = data
    assert bytes(content) == theirs.read_bytes()


@PER_TEST
@given(tensors=TENSORS)
def test_what_the_library_wrote_is_read(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    save_file(filled(tensors), path, metadata={"format": "pt", "é": "\n"})
    found = read_safetensors(LocalFile(path))
    assert found.metadata == {"format": "pt", "é": "\n"}
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.tensors.items()} == tensors
    for name, tensor in load_file(path).items():
        assert gather(found.tensors[name]) == raw(tensor), name


# --- damaged -------------------------------------------------------------------------------------

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "BF16", "shape": [1, 3], "data_offsets": [8, 14]}


def write(path: Path, header: object, data: bytes = bytes(14)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def open_written(path: Path, header: object, data: bytes = bytes(14)) -> TensorFile:
    return read_safetensors(LocalFile(write(path, header, data)))


def test_the_sound_one_is_read(path):
    """The control for all damage below."""
    assert list(open_written(path, {"a": A, "b": B}).tensors) == ["a", "b"]
    assert list(open_written(path, {"b": B, "__metadata__": {}, "a": A}).tensors) == ["b", "a"]


def changed(entry: dict[str, Any], **values: object) -> dict[str, Any]:
    return entry | values


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"a": %b, "b": %b, "a": %b}' % tuple(json.dumps(e).encode() for e in (A, B, A)), "names given twice: a"),
        (b'{"a": {"dtype": "F32", "dtype": "F32"}}', "names given twice: dtype"),
        ({"a": A}, "the tensors end at byte"),
        ({"b": B}, "b starts at byte"),
        ({"a": A, "b": changed(B, data_offsets=[6, 12])}, "b starts at byte"),
        ({"a": A, "b": changed(B, data_offsets=[9, 15])}, "b starts at byte"),
        ({"a": A, "b": changed(B, shape=[1, 4], data_offsets=[8, 16])}, "the tensors end at byte"),
        ({"a": A, "b": changed(B, shape=[1, 2])}, r"b: BF16 \[1, 2\] does not fill bytes 8 to 14"),
        ({"a": A, "b": changed(B, shape=[-1, -3])}, "b: shape and data_offsets are not all sizes"),
        ({"a": A, "b": changed(B, shape=[1, 3.0])}, "not all sizes"),
        ({"a": A, "b": changed(B, shape=[True, 3])}, "not all sizes"),
        ({"a": A, "b": changed(B, shape="13")}, "no short lists"),
        ({"a": A, "b": changed(B, shape=[1] * 1000 + [3])}, "no short lists"),
        (json.dumps({"a": A, "b": B}).replace("[1, 3]", "[1e999]").encode(), "not all sizes"),
        ({"a": A, "b": changed(B, shape=[10**30])}, "not all sizes"),
        ({"a": A, "b": changed(B, data_offsets=[14, 8])}, "b: "),
        ({"a": A, "b": changed(B, data_offsets=[8.0, 14.0])}, "not all sizes"),
        ({"a": A, "b": changed(B, data_offsets=[8])}, "b: "),
        ({"a": A, "b": changed(B, data_offsets=None)}, "no short lists"),
        ({"a": A, "b": changed(B, dtype="F31")}, "b: unknown dtype 'F31'"),
        ({"a": A, "b": changed(B, dtype=["BF16"])}, "b: "),
        ({"a": A, "b": {}}, "b: 'dtype'"),
        ({"a": A, "b": [1]}, "b: "),
        ({"a": A, "b": None}, "b: "),
        ({"a": A, "b": B, "__metadata__": 5}, "__metadata__"),
        ({"a": A, "b": B, "__metadata__": {"format": 5}}, "__metadata__"),
        ({"a": A, "b": B, "\ud800": A}, "surrogates"),
        ([A, B], "is no JSON object"),
        (b"null", "is no JSON object"),
        (b"", "unreadable"),
        (b"{", "unreadable"),
        (b'{"a": }', "unreadable"),
        (b'{"\xff": 1}', "unreadable"),
        (json.dumps({"a": A, "b": B}).encode("utf-16"), "unreadable"),
        (b"[" * 100_000, "unreadable"),
        (b"9" * 5000, "unreadable"),
    ],
)
def test_damage_is_refused(path, header, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        open_written(path, header)
    assert str(path) in caught.value.summary
    assert caught.value.advice


@pytest.mark.parametrize("length", [13, 0, 15])
def test_a_file_of_another_length_is_refused(path, length):
    with pytest.raises(CheckpointError, match="the tensors end at byte"):
        open_written(path, {"a": A, "b": B}, bytes(length))


def test_a_file_cut_anywhere_is_refused(path):
    content = write(path, {"a": A, "b": B}).read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_safetensors(LocalFile(path))


@pytest.mark.parametrize("length", [100_000_001, 1 << 40, (1 << 64) - 1])
def test_a_header_that_claims_too_much_is_refused(path, length):
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(200_000_000)
    with pytest.raises(CheckpointError, match=f"a header of {length:,} bytes"):
        read_safetensors(LocalFile(path))


def test_all_problems_are_told_at_once(path):
    header = {"a": changed(A, dtype="X1"), "b": changed(B, dtype="X2"), "c": A}
    with pytest.raises(CheckpointError) as caught:
        open_written(path, header)
    assert caught.value.problems == ("a: unknown dtype 'X1'", "b: unknown dtype 'X2'")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8"]) | JSON,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 20), min_size=2, max_size=2) | JSON,
    }
)


@PER_TEST
@given(header=st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), ENTRIES | JSON, max_size=3) | JSON)
def test_any_json_is_read_or_refused(tmp_path, header):
    with suppress(CheckpointError):
        open_written(tmp_path / "a.safetensors", header)


@settings(PER_TEST, max_examples=250)
@given(edits=EDITS)
def test_a_damaged_header_is_read_or_refused(tmp_path, edits):
    text = edited(json.dumps({"a": A, "__metadata__": {"format": "pt"}, "b": B}).encode(), edits)
    with suppress(CheckpointError):
        found = open_written(tmp_path / "a.safetensors", text)
        covered = sorted((tensor.offset, tensor.offset + tensor.nbytes) for tensor in found.tensors.values())
        assert sum(end - start for start, end in covered) == 14


@settings(PER_TEST, max_examples=150)
@given(edits=EDITS)
def test_a_damaged_file_is_read_or_refused(tmp_path, edits):
    path = write(tmp_path / "a.safetensors", {"a": A, "b": B})
    path.write_bytes(edited(path.read_bytes(), edits))
    with suppress(CheckpointError):
        read_safetensors(LocalFile(path))
