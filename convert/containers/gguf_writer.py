"""GGUF files laid out before the first byte is written.

Headers are byte for byte those of the gguf package (gguf-py/gguf/gguf_writer.py) for the same keys in the
same order.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import prod

from llama_convert.convert.containers.gguf_values import (
    ALIGNMENT_KEY,
    DTYPES,
    Value,
    encoded,
    encoded_text,
    padded,
    shape_faults,
)
from llama_convert.convert.containers.slices import DType, Layout
from llama_convert.convert.errors import UsageError, counted

Tensor = tuple[str, DType, tuple[int, ...]]

_VERSION = 3
_LONGEST_NAME = 63  # bytes; ggml keeps 64 with the zero at the end
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


def lay_out(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> Layout:
    """The header and all offsets of a file with this metadata and these (name, dtype, shape) tensors, in order.

    The header reaches to the first tensor. Every tensor, also the last, is padded to 32 bytes. Nobody writes
    the padding: a file that is allocated in full size before it is filled reads as zeros there, as it must.
    Raises UsageError with every tensor that ggml cannot hold, ValueError for metadata that is no GGUF's.
    """
    _check(tensors)
    infos, starts, position = [], [], 0
    for name, dtype, shape in tensors:
        infos.append(_info(name, dtype, shape, position))
        starts.append((name, position))
        position = padded(position + dtype.size(prod(shape)))
    header = b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))
    header += b"".join([*_pairs(metadata), *infos])
    header += bytes(padded(len(header)) - len(header))
    return Layout(header, tuple((name, len(header) + start) for name, start in starts), len(header) + position)


def _pairs(metadata: Mapping[str, Value]) -> Iterator[bytes]:
    if ALIGNMENT_KEY in metadata:
        raise ValueError(f"{ALIGNMENT_KEY} is never written: it is 32, and some readers stop at the key")
    for key, value in metadata.items():
        try:
            yield encoded_text(key) + encoded(value)
        except (struct.error, OverflowError, TypeError) as error:
            raise ValueError(f"{key}: {error}") from error


def _info(name: str, dtype: DType, shape: tuple[int, ...], start: int) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return encoded_text(name) + axes + struct.pack("<IQ", _NUMBERS[dtype], start)


def _check(tensors: Sequence[Tensor]) -> None:
    counts = Counter(name for name, _, _ in tensors)
    problems = [f"{name}: given twice" for name, count in counts.items() if count > 1]
    problems += [f"{name}: {fault}" for name, dtype, shape in tensors for fault in _faults(name, dtype, shape)]
    if problems:
        raise UsageError(
            f"these tensors cannot be written as GGUF ({counted(len(problems), 'problem')})",
            problems=problems[:50],
            advice="Choose another element type, or another format.",
        )


def _faults(name: str, dtype: DType, shape: tuple[int, ...]) -> Iterator[str]:
    if len(name.encode()) > _LONGEST_NAME:
        yield f"a name of {len(name.encode())} bytes, but ggml keeps {_LONGEST_NAME}"
    if dtype not in _NUMBERS:
        yield f"ggml has no {dtype.label}"
    yield from shape_faults(dtype, shape)
