"""Headers byte for byte as the gguf package writes them, and read as it reads them."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from math import prod

import gguf
import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llama_convert.convert.containers.gguf import read_gguf
from llama_convert.convert.containers.gguf_values import DTYPES, OTHER_TYPES, Array, Kind, Scalar, Value
from llama_convert.convert.containers.gguf_writer import lay_out
from llama_convert.convert.containers.slices import DType, LocalFile
from tests.convert.gguf_files import NUMBERS, Tensor, little_memory, written_by_them, written_by_us

PER_TEST = settings(deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@PER_TEST
@given(metadata=st.dictionaries(KEYS, SCALARS | arrays(list(ELEMENTS), 0) | NESTED, max_size=6), tensors=tensors_of())
def test_what_was_read_is_written_the_same(path, metadata, tensors):
    content = written_by_us(metadata, tensors)
    path.write_bytes(content)
    assert written_by_us(read_gguf(LocalFile(path)).metadata, tensors) == content
