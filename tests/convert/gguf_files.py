"""GGUF files that tests read: written by the gguf package, laid out by this project, and put together by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

import gguf
import numpy as np

from llama_convert.convert.containers.gguf import GgufFile, read_gguf
from llama_convert.convert.containers.gguf_values import DTYPES, Array, Scalar, Value
from llama_convert.convert.containers.gguf_writer import lay_out
from llama_convert.convert.containers.slices import DType, LocalFile
from tests.convert.support import traced_memory

MOST_MEMORY = 100_000_000  # bytes
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
Tensor = tuple[str, DType, tuple[int, ...]]


@contextmanager
def little_memory() -> Iterator[None]:
    """What runs within holds no more than a header may take."""
    with traced_memory() as peak:
        yield
        assert peak() < MOST_MEMORY


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
