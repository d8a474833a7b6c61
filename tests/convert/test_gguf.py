"""Headers byte for byte as the gguf package writes them; nothing damaged is read."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llama_convert.convert.containers.gguf import GgufFile, read_gguf
from llama_convert.convert.containers.gguf_splits import read_split, split_metadata, split_name, split_paths
from llama_convert.convert.containers.gguf_values import DTYPES, OTHER_TYPES, Array, Kind, Scalar, Value
from llama_convert.convert.containers.gguf_writer import lay_out
from llama_convert.convert.containers.slices import DType, LocalFile
from llama_convert.convert.errors import CheckpointError, UsageError
from tests.convert.support import EDITS, edited

PER_TEST = settings(deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
MOST_MEMORY = 100_000_000  # bytes
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
Tensor = tuple[str, DType, tuple[int, ...]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.gguf"


# --- against the gguf package --------------------------------------------------------------------


def add(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    """The value as the package takes it. It finds the types of nested arrays itself: int32, float32, bool, text."""
    if isinstance(value, Scalar):
        writer.add_key_value(key, value.content, gguf.GGUFValueType(value.kind.number))
    else:
        content = [list(item.content) if isinstance(item, Array) else item for item in value.content]
        kind = gguf.GGUFValueType(value.kind.number)
        writer.add_key_value(key, content, gguf.GGUFValueType.ARRAY, sub_type=kind)


def data_of(dtype: DType, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, dtype.size(prod(shape)), np.uint8)


def written_by_them(path: Path, metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> list[bytes]:
    """Write the file with the gguf package; the tensors' bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.kv_data[0].clear()  # general.architecture, which is among the metadata where it is wanted
    for key, value in metadata.items():
        add(writer, key, value)
    for name, dtype, shape in tensors:
        raw = gguf.GGMLQuantizationType(NUMBERS[dtype])
        writer.add_tensor_info(name, shape, np.dtype(np.float32), dtype.size(prod(shape)), raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    made = [data_of(dtype, shape, seed) for seed, (_, dtype, shape) in enumerate(tensors)]
    writer.write_padding(writer.fout[0], writer.fout[0].tell())
    for data in made:
        writer.write_tensor_data(data)
    writer.close()
    return [data.tobytes() for data in made]


def written_by_us(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> bytes:
    layout = lay_out(metadata, tensors)
    content = bytearray(layout.header.ljust(layout.size, b"\0"))
    assert [name for name, _ in layout.offsets] == [name for name, _, _ in tensors]
    for seed, ((_, offset), (_, dtype, shape)) in enumerate(zip(layout.offsets, tensors, strict=True)):
        data = data_of(dtype, shape, seed).tobytes()
        content[offset : offset + len(data)] = data
    return bytes(content)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KEYS = TEXTS.filter(lambda key: key not in ("", "general.alignment"))
WHOLE = {
    kind: st.integers(np.iinfo(kind.dtype).min, np.iinfo(kind.dtype).max)
    for kind in Kind
    if kind.code and kind.dtype.kind in "iu"
}
ELEMENTS = {
    **WHOLE,
    Kind.FLOAT32: st.floats(width=32, allow_nan=False),
    Kind.FLOAT64: st.floats(allow_nan=False),
    Kind.BOOL: st.booleans(),
    Kind.STRING: TEXTS,
}
SCALARS = st.sampled_from(list(ELEMENTS)).flatmap(lambda kind: ELEMENTS[kind].map(lambda item: Scalar(kind, item)))


def arrays(kinds: Sequence[Kind], smallest: int = 1) -> st.SearchStrategy[Array]:
    return st.sampled_from(kinds).flatmap(
        lambda kind: st.lists(ELEMENTS[kind], min_size=smallest, max_size=5).map(lambda items: Array(kind, items))
    )


INFERRED = [Kind.INT32, Kind.FLOAT32, Kind.BOOL, Kind.STRING]
NESTED = st.lists(arrays(INFERRED), min_size=1, max_size=3).map(lambda items: Array(Kind.ARRAY, items))
METADATA = st.dictionaries(KEYS, SCALARS | arrays(list(ELEMENTS)) | NESTED, max_size=6)
SHAPES = st.lists(st.integers(1, 4), max_size=3)


@st.composite
def tensors_of(draw: st.DrawFn) -> list[Tensor]:
    found = []
    for name in draw(st.lists(TEXTS.filter(lambda name: len(name.encode()) < 64), unique=True, max_size=6)):
        dtype = draw(st.sampled_from(list(NUMBERS)))
        shape = draw(SHAPES)
        found.append((name, dtype, (*shape, dtype.block) if dtype.block > 1 or shape else ()))
    return found


EVERY_VALUE: dict[str, Value] = {
    "general.architecture": Scalar(Kind.STRING, "llama"),
    "text": Scalar(Kind.STRING, "żółć 🦙\n\0"),
    "uint8": Scalar(Kind.UINT8, 255),
    "int8": Scalar(Kind.INT8, -128),
    "uint16": Scalar(Kind.UINT16, 65535),
    "int16": Scalar(Kind.INT16, -32768),
    "uint32": Scalar(Kind.UINT32, 2**32 - 1),
    "int32": Scalar(Kind.INT32, -(2**31)),
    "uint64": Scalar(Kind.UINT64, 2**64 - 1),
    "int64": Scalar(Kind.INT64, -(2**63)),
    "float32": Scalar(Kind.FLOAT32, struct.unpack("<f", struct.pack("<f", 1e-5))[0]),
    "float64": Scalar(Kind.FLOAT64, 0.1),
    "true": Scalar(Kind.BOOL, True),
    "false": Scalar(Kind.BOOL, False),
    "bools": Array(Kind.BOOL, [True, False]),
    "scores": Array(Kind.FLOAT32, np.array([-1e30, 0.1, np.inf], "<f4")),
    "sizes": Array(Kind.UINT64, [2**64 - 1]),
    "tokens": Array(Kind.STRING, ["<s>", "", "Ġthe"]),
}
EVERY_TYPE = [(f"{dtype.label}.weight", dtype, (3, 2 * dtype.block)) for dtype in NUMBERS]


@PER_TEST
@given(metadata=METADATA, tensors=tensors_of())
@example(metadata=EVERY_VALUE, tensors=EVERY_TYPE)
@example(metadata={"a": Array(Kind.ARRAY, [Array(Kind.STRING, ["x", ""]), Array(Kind.INT32, [1])])}, tensors=[])
def test_the_file_is_the_packages(path, metadata, tensors):
    written_by_them(path, metadata, tensors)
    assert written_by_us(metadata, tensors) == path.read_bytes()


@PER_TEST
@given(metadata=METADATA, tensors=tensors_of())
@example(metadata=EVERY_VALUE, tensors=EVERY_TYPE)
def test_what_the_package_wrote_is_read(path, metadata, tensors):
    data = written_by_them(path, metadata, tensors)
    found = read_gguf(LocalFile(path))
    assert found.metadata == metadata
    assert list(found.metadata) == list(metadata)
    assert [(name, tensor.dtype, tensor.shape) for name, tensor in found.file.tensors.items()] == tensors
    for tensor, wanted in zip(found.file.tensors.values(), data, strict=True):
        assert LocalFile(path).read(tensor.offset, tensor.nbytes) == wanted


@settings(PER_TEST, max_examples=40)
@given(
    metadata=st.dictionaries(KEYS, SCALARS | arrays(list(ELEMENTS)), max_size=6),
    # Of what has no axes the package reads only the types that numpy has.
    tensors=tensors_of().map(lambda tensors: [tensor for tensor in tensors if tensor[2]]),
)
@example(metadata=EVERY_VALUE, tensors=EVERY_TYPE)
def test_the_package_reads_what_we_wrote(path, metadata, tensors):
    metadata = {f"x.{key}": value for key, value in metadata.items()}
    path.write_bytes(written_by_us(metadata, tensors))
    reader = gguf.GGUFReader(path)
    keys = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert keys == {
        key: np.array(value.content, value.kind.dtype).tolist()
        if isinstance(value, Array) and value.kind.code
        else value.content
        for key, value in metadata.items()
    }
    offsets = dict(lay_out(metadata, tensors).offsets)
    assert [
        (tensor.name, tensor.tensor_type, tuple(tensor.shape.tolist()), tensor.data_offset, tensor.n_bytes)
        for tensor in reader.tensors
    ] == [(name, NUMBERS[dtype], shape[::-1], offsets[name], dtype.size(prod(shape))) for name, dtype, shape in tensors]


def test_every_type_the_package_knows_is_named():
    known = {int(number) for number in gguf.GGMLQuantizationType}
    assert known <= DTYPES.keys() | OTHER_TYPES.keys()
    assert not DTYPES.keys() & OTHER_TYPES.keys()
    for number, dtype in DTYPES.items():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (dtype.block, dtype.nbytes)
        assert gguf.GGMLQuantizationType(number).name.lower() in (dtype.label, SHORT.get(dtype))
    assert {int(number) for number in gguf.GGUFValueType} == {kind.number for kind in Kind}


SHORT = {
    DType.FLOAT64: "f64",
    DType.FLOAT32: "f32",
    DType.FLOAT16: "f16",
    DType.BFLOAT16: "bf16",
    DType.INT8: "i8",
    DType.INT16: "i16",
    DType.INT32: "i32",
    DType.INT64: "i64",
}


def vocabulary() -> dict[str, Value]:
    """As large as that of Llama 3, of any words."""
    numbers = random.Random(0)
    words = ["".join(numbers.choices("abcdefghijklmnopqrstuvwxyzĠĊé", k=numbers.randint(1, 12))) for _ in range(1000)]
    tokens = [f"{words[number % 1000]}{number}" for number in range(128_256)]
    merges = [f"{words[number % 999]} {words[number % 997]}" for number in range(280_147)]
    return {
        "general.architecture": Scalar(Kind.STRING, "llama"),
        "tokenizer.ggml.tokens": Array(Kind.STRING, tokens),
        "tokenizer.ggml.scores": Array(Kind.FLOAT32, np.linspace(-1, 0, 128_256, dtype="<f4")),
        "tokenizer.ggml.token_type": Array(Kind.INT32, [1] * 128_256),
        "tokenizer.ggml.merges": Array(Kind.STRING, merges),
    }


class Counted(LocalFile):
    """A file that counts how often and how far it is read."""

    reads: list[tuple[int, int]]

    def read(self, offset: int, nbytes: int) -> bytes:
        self.reads.append((offset, nbytes))
        return super().read(offset, nbytes)


def test_a_vocabulary_of_real_size(path):
    metadata = vocabulary()
    tensors = [(f"blk.{layer}.attn_q.weight", DType.Q8_0, (32, 64)) for layer in range(32)]
    written_by_them(path, metadata, tensors)
    assert written_by_us(metadata, tensors) == path.read_bytes()
    source = Counted(path)
    object.__setattr__(source, "reads", [])
    found = read_gguf(source)
    assert found.metadata == metadata
    assert found.metadata["tokenizer.ggml.scores"].content.dtype == np.float32
    assert len(source.reads) == 3
    source = LocalFile(path)
    with little_memory():
        read_gguf(source)


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY


# --- values ----------------------------------------------------------------------------------------


@PER_TEST
@given(metadata=st.dictionaries(KEYS, SCALARS | arrays(list(ELEMENTS), 0) | NESTED, max_size=6), tensors=tensors_of())
def test_what_was_read_is_written_the_same(path, metadata, tensors):
    content = written_by_us(metadata, tensors)
    path.write_bytes(content)
    assert written_by_us(read_gguf(LocalFile(path)).metadata, tensors) == content


def test_texts_that_are_no_utf8_stay_bytes(path):
    metadata = {"a": Scalar(Kind.STRING, b"\xff\xfe"), "b": Array(Kind.STRING, ["é", b"\xe9", ""])}
    path.write_bytes(written_by_us(metadata, []))
    found = read_gguf(LocalFile(path)).metadata
    assert found["a"].content == b"\xff\xfe"
    assert found["b"].content == ("é", b"\xe9", "")


def test_numbers_that_were_read_are_exact_and_cannot_be_changed(path):
    bits = np.arange(0, 2**32, 65_537, dtype="<u4")
    path.write_bytes(written_by_us({"a": Array(Kind.FLOAT32, bits.view("<f4"))}, []))
    content = read_gguf(LocalFile(path)).metadata["a"].content
    assert (content.view("<u4") == bits).all()
    with pytest.raises(ValueError, match="read-only"):
        content[0] = 1


def test_arrays_are_equal_by_their_bytes():
    assert Array(Kind.INT32, [1]) == Array(Kind.INT32, (1,)) == Array(Kind.INT32, np.array([1]))
    assert len({Array(Kind.INT32, [1]), Array(Kind.INT32, (1,))}) == 1
    assert Array(Kind.INT32, [1]) != Array(Kind.UINT32, [1])
    assert Array(Kind.FLOAT32, [0.0]) != Array(Kind.FLOAT32, [-0.0])
    assert Array(Kind.INT32, [1]) != [1]


@pytest.mark.parametrize(
    "value",
    [
        Scalar(Kind.UINT8, 256),
        Scalar(Kind.UINT32, -1),
        Scalar(Kind.INT32, 1.5),
        Scalar(Kind.INT32, "1"),
        Scalar(Kind.FLOAT32, 1e39),
        Scalar(Kind.STRING, 5),
        Array(Kind.UINT8, [1, 256]),
        Array(Kind.UINT8, np.array([256])),
        Array(Kind.INT32, [1.5]),
        Array(Kind.INT32, ["1"]),
        Array(Kind.STRING, ["1", 1]),
        Array(Kind.ARRAY, [Array(Kind.UINT8, [256])]),
    ],
)
def test_a_value_that_does_not_fit_its_kind_is_not_written(value):
    with pytest.raises(ValueError, match=r"some\.key"):
        lay_out({"some.key": value}, [])


def test_the_alignment_is_not_written():
    with pytest.raises(ValueError, match=r"general\.alignment"):
        lay_out({"general.alignment": Scalar(Kind.UINT32, 32)}, [])


def test_all_tensors_that_ggml_cannot_hold_are_told_at_once():
    tensors = [
        ("a", DType.FLOAT8_E4M3, (1,)),
        ("b", DType.Q4_0, (32, 33)),
        ("c", DType.FLOAT32, (1, 1, 1, 1, 1)),
        ("d", DType.FLOAT32, (0, 1)),
        ("e", DType.FLOAT32, (1,)),
        ("e", DType.FLOAT32, (1,)),
        ("f" * 64, DType.FLOAT32, (1,)),
        ("g" * 63, DType.FLOAT32, (1, 1, 1, 1)),
    ]
    with pytest.raises(UsageError) as caught:
        lay_out({}, tensors)
    assert caught.value.problems == (
        "e: given twice",
        "a: ggml has no float8_e4m3fn",
        "b: rows of 33 elements, but q4_0 stores them in blocks of 32",
        "c: more than 4 axes",
        "d: [0, 1] holds nothing",
        f"{'f' * 64}: a name of 64 bytes, but ggml keeps 63",
    )


# --- damaged -------------------------------------------------------------------------------------


def text(content: str | bytes) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(content)) + content


def pair(key: str | bytes, kind: int, content: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + content


def info(name: str | bytes, start: int, axes: Sequence[int] = (4, 2), kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, start)


def gguf_bytes(
    pairs: Sequence[bytes] = (),
    infos: Sequence[bytes] = (),
    data: int | None = None,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """A file by hand. data: bytes after the header; None: 32 a tensor, which is what info() needs."""
    tensors, keys = counts or (len(infos), len(pairs))
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join([*pairs, *infos])
    header += bytes(-len(header) % alignment)
    return header + bytes(32 * len(infos) if data is None else data)


def opened(path: Path, content: bytes) -> GgufFile:
    path.write_bytes(content)
    return read_gguf(LocalFile(path))


LLAMA = pair("general.architecture", 8, text("llama"))
A, B = info("a", 0), info("b", 32)


def aligned(number: int, kind: int = 4) -> bytes:
    return pair("general.alignment", kind, struct.pack("<I" if kind == 4 else "<Q", number))


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + content


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


SMALL = gguf_bytes(
    [
        LLAMA,
        pair("llama.block_count", 4, struct.pack("<I", 2)),
        pair("tokenizer.ggml.tokens", 9, array(8, 3, text("a") + text("é") + text(""))),
        pair("tokenizer.ggml.scores", 9, array(6, 3, struct.pack("<3f", 0, -1, -2))),
        pair("flag", 7, b"\1"),
        pair("nested", 9, array(9, 2, array(4, 1, bytes(4)) + array(7, 1, b"\1"))),
    ],
    [A, info("b", 32, (32, 2), 2), info("c", 32 + 64, (3,), 30)],
    32 + 64 + 32,
)


def check_read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with little_memory(), suppress(CheckpointError):
        found = read_gguf(LocalFile(path))
        ends = 0
        for tensor in sorted(found.file.tensors.values(), key=lambda tensor: tensor.offset):
            assert tensor.offset >= ends
            ends = tensor.offset + tensor.nbytes
            assert ends <= len(content)


@settings(PER_TEST, max_examples=400)
@given(edits=EDITS)
def test_a_damaged_file_is_read_or_refused(path, edits):
    check_read_or_refused(path, edited(SMALL, edits))


@settings(PER_TEST, max_examples=400)
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


# --- in several files ----------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A model of five tensors in three files, written by the gguf package."""
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama", split_max_tensors=2)
    writer.add_block_count(5)
    for number in range(5):
        writer.add_tensor(f"blk.{number}.weight", np.full((2, 3), number, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
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
