"""safetensors files: their header read and checked, or laid out before the first byte is written.

Layout: 8-byte little-endian header length, JSON header padded with spaces to 8 bytes, then the tensors
without gaps. Our headers are byte for byte those of the safetensors library (safetensors/src/tensor.rs).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

from llama_convert.convert.containers.lookalikes import refuse_lookalikes
from llama_convert.convert.containers.slices import ByteSource, DType, Layout, TensorFile, TensorSlice
from llama_convert.convert.errors import CheckpointError

_LARGEST_HEADER = 100_000_000  # bytes; the library's own limit
_MOST_DIMENSIONS = 64
_CODES = {dtype.code: dtype for dtype in DType if dtype.code}
# The library puts types of wider elements first, so that every tensor starts aligned to its element.
_ORDER = [
    DType.INT64, DType.FLOAT64, DType.FLOAT32, DType.UINT32, DType.INT32, DType.BFLOAT16, DType.FLOAT16, DType.INT16,
    DType.FLOAT8_E4M3, DType.FLOAT8_E5M2, DType.INT8, DType.UINT8, DType.BOOL,
]  # fmt: skip


def lay_out(
    tensors: Sequence[tuple[str, DType, tuple[int, ...]]],
    metadata: Mapping[str, str] = MappingProxyType({"format": "pt"}),
) -> Layout:
    """The header and all offsets of a file with these (name, dtype, shape) tensors.

    metadata: free text; without `format` transformers refuses the file. Tensors are ordered as the library
    orders them: wider types first, then by name.
    """
    ordered = sorted(tensors, key=lambda tensor: (_ORDER.index(tensor[1]), tensor[0]))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    starts = []
    position = 0
    for name, dtype, shape in ordered:
        end = position + prod(shape) * dtype.nbytes
        entries[name] = {"dtype": dtype.code, "shape": list(shape), "data_offsets": [position, end]}
        starts.append((name, position))
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, tuple((name, len(header) + start) for name, start in starts), len(header) + position)


def read_safetensors(source: ByteSource) -> TensorFile:
    """The tensors of a safetensors file by name, from its header alone.

    Raises CheckpointError with every problem found: duplicate names, unknown types, gaps, overlaps, a
    short or overlong file. The library accepts duplicate names silently; here they are refused.
    """
    header, start = _header(source)
    metadata = header.pop("__metadata__", None)
    problems: list[str] = [] if metadata is None or _is_text(metadata) else ["__metadata__: not an object of texts"]
    tensors = {}
    for name, entry in header.items():
        try:
            tensors[name] = _slice(source, start, entry)
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"{name}: {error}")
    problems += [] if problems else _gaps(tensors, start, source.size)
    if problems:
        raise CheckpointError(
            f"{source.path}: damaged safetensors file", problems=problems[:50], advice="Fetch the file again."
        )
    return TensorFile(path=source.path, size=source.size, tensors=tensors, metadata=metadata)


def _header(source: ByteSource) -> tuple[dict[str, Any], int]:
    refuse_lookalikes(source, source.read(0, 64))
    length = int.from_bytes(source.read(0, 8), "little")
    if source.size < 8 or length > min(_LARGEST_HEADER, source.size - 8):
        raise CheckpointError(
            f"{source.path}: no safetensors file, or truncated: a header of {length:,} bytes in {source.size:,} bytes",
            advice="Fetch the file again.",
        )
    try:
        # Decoded here: json.loads would take bytes for UTF-16 where they look like it.
        header = json.loads(source.read(8, length).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{source.path}: unreadable safetensors header: {error}", advice="Fetch the file again."
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{source.path}: the safetensors header is no JSON object", advice="Fetch the file again."
        )
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError("names given twice: " + ", ".join(sorted(name for name in counts if counts[name] > 1)[:50]))
    "".join(entries).encode()  # JSON can escape halves of characters, which nothing can print
    return entries


def _slice(source: ByteSource, start: int, entry: dict[str, Any]) -> TensorSlice:
    if entry["dtype"] not in _CODES:
        raise ValueError(f"unknown dtype {entry['dtype']!r:.80}")
    dtype, shape = _CODES[entry["dtype"]], tuple(_sizes(entry["shape"]))
    begin, end = _sizes(entry["data_offsets"])
    if prod(shape) * dtype.nbytes != end - begin:
        raise ValueError(f"{dtype.code} {list(shape)} does not fill bytes {begin} to {end}")
    return TensorSlice(file=source.path, offset=start + begin, dtype=dtype, shape=shape)


def _sizes(numbers: Any) -> list[int]:
    if not isinstance(numbers, list) or len(numbers) > _MOST_DIMENSIONS:
        raise ValueError("shape and data_offsets are no short lists")
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise ValueError("shape and data_offsets are not all sizes")
    return numbers


def _is_text(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())


def _gaps(tensors: dict[str, TensorSlice], start: int, size: int) -> list[str]:
    problems = []
    position = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != position:
            problems.append(f"{name} starts at byte {tensor.offset:,}, but the bytes before it end at {position:,}")
        position = tensor.offset + tensor.nbytes
    if position != size:
        problems.append(f"the tensors end at byte {position:,}, the file at {size:,}")
    return problems
