"""GGUF files, versions 2 and 3, by their header: metadata and where the tensors are.

Layout, all little-endian: `GGUF`, version, number of tensors and of metadata keys; the keys with typed
values; for each tensor name, axes (the fastest first), type and offset; then the tensors, each aligned.
Sources: ggml docs/gguf.md, ggml/src/gguf.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_convert.convert.containers.gguf_header import Header, TensorInfo, read_header
from llama_convert.convert.containers.gguf_values import (
    ALIGNMENT,
    ALIGNMENT_KEY,
    DTYPES,
    OTHER_TYPES,
    Kind,
    Scalar,
    Value,
    padded,
    shape_faults,
)
from llama_convert.convert.containers.lookalikes import refuse_lookalikes
from llama_convert.convert.containers.slices import ByteSource, TensorFile, TensorSlice
from llama_convert.convert.errors import CheckpointError, counted

_VERSIONS = (2, 3)
_OLDER = (b"lmgg", b"fmgg", b"tjgg")  # ggml, ggmf, ggjt: magic numbers stored backwards
_CONVERT_AGAIN = "Convert the model again with a current llama.cpp, or fetch a newer file."


@dataclass(frozen=True, slots=True)
class GgufFile:
    """One opened GGUF file. metadata: typed values in the order of the file; texts that are no UTF-8 are bytes."""

    file: TensorFile
    metadata: Mapping[str, Value]

    def plain(self) -> dict[str, Any]:
        """The metadata without its types: numbers, texts, lists."""
        contents = {key: value.content for key, value in self.metadata.items()}
        return {key: found.tolist() if isinstance(found, np.ndarray) else found for key, found in contents.items()}


def read_gguf(source: ByteSource) -> GgufFile:
    """The tensors of a GGUF file by name, and its metadata, from the header alone.

    Shapes are row-major: the file's axes reversed, so that the elements of the last axis lie side by side.
    Raises CheckpointError: no GGUF, a version or byte order that is not supported, a header that is truncated,
    and, all of them listed, names given twice, types not supported, tensors that hold nothing, are misaligned,
    overlap, leave gaps (llama.cpp refuses these too) or lie outside the file, bytes after the last tensor.
    Cost: a first look and one to three growing reads from the start, 1 MiB where there is no vocabulary; that
    of Llama 3 makes the header 8 MB and takes 0.2 s.
    """
    start = source.read(0, 64)
    refuse_lookalikes(source, start)
    _check_version(source, start)
    header = read_header(source)
    problems = list(header.problems)
    alignment = _alignment(header.metadata, problems)
    tensors = _tensors(source, header, alignment, problems)
    if problems:
        raise CheckpointError(
            f"{source.path}: damaged or unsupported GGUF file ({counted(len(problems), 'problem')})",
            problems=problems[:50],
            advice="Fetch the file again, or the model in types that are supported.",
        )
    return GgufFile(TensorFile(path=source.path, size=source.size, tensors=tensors), header.metadata)


def _check_version(source: ByteSource, start: bytes) -> None:
    if start[:4] in _OLDER:
        raise CheckpointError(
            f"{source.path}: a ggml file from before GGUF, which is not supported", advice=_CONVERT_AGAIN
        )
    if start[:4] != b"GGUF":
        raise CheckpointError(
            f"{source.path}: no GGUF file: it starts with {start[:4]!r}, wanted b'GGUF'",
            advice="Is this the right file?",
        )
    if len(start) < 24:
        raise CheckpointError(
            f"{source.path}: truncated: {len(start)} bytes, wanted 24 at the least", advice="Fetch the file again."
        )
    (version,) = struct.unpack_from("<I", start, 4)
    if version and version & 0xFFFF == 0:
        raise CheckpointError(
            f"{source.path}: a big-endian GGUF file, wanted little-endian",
            advice="Fetch the little-endian file of this model.",
        )
    if version not in _VERSIONS:
        raise CheckpointError(f"{source.path}: GGUF version {version}, wanted 2 or 3", advice=_CONVERT_AGAIN)


def _alignment(metadata: Mapping[str, Value], problems: list[str]) -> int:
    value = metadata.get(ALIGNMENT_KEY, Scalar(Kind.UINT32, ALIGNMENT))
    number = value.content
    if value.kind is Kind.UINT32 and isinstance(number, int) and number > 0 and number & (number - 1) == 0:
        return number
    problems.append(f"{ALIGNMENT_KEY} is {value.kind.name.lower()} {number!r:.80}, wanted a power of two as uint32")
    return ALIGNMENT


def _tensors(source: ByteSource, header: Header, alignment: int, problems: list[str]) -> dict[str, TensorSlice]:
    start = padded(header.size, alignment) if header.tensors else header.size
    tensors: dict[str, TensorSlice] = {}
    names: set[str] = set()
    for info in header.tensors:
        faults = [f"{info.name[:80]}: {fault}" for fault in _faults(info, alignment, names)]
        names.add(info.name)
        if not faults:
            tensors[info.name] = TensorSlice(
                file=source.path, offset=start + info.start, dtype=DTYPES[info.type], shape=info.shape
            )
        problems += faults
    # Where a tensor is not understood, the room it takes is no gap.
    problems += _misplaced(tensors, start, alignment, source.size, gaps=not problems)
    return tensors


def _faults(info: TensorInfo, alignment: int, names: Set[str]) -> Iterator[str]:
    """names: those of the tensors before."""
    if info.type in DTYPES:
        yield from shape_faults(DTYPES[info.type], info.shape)
    else:
        yield f"type {info.type} ({OTHER_TYPES.get(info.type, 'unknown')})"
    if info.start % alignment:
        yield f"starts {info.start:,} bytes into the data, no multiple of {alignment:,}"
    if info.name in names:
        yield "given twice"


def _misplaced(
    tensors: Mapping[str, TensorSlice], start: int, alignment: int, size: int, *, gaps: bool
) -> Iterator[str]:
    """Overlaps and gaps, then what lies beyond the file's end, then what the file has beyond the tensors."""
    position = end = start
    outside = []
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        name = name[:80]
        if tensor.offset < position or (gaps and tensor.offset > position):
            yield f"{name}: starts at byte {tensor.offset:,}, but the bytes before it end at {position:,}"
        end = max(end, tensor.offset + tensor.nbytes)
        position = max(position, start + padded(end - start, alignment))
        if tensor.offset + tensor.nbytes > size:
            outside.append(name)
    if outside:
        what = f"{outside[0]} and {len(outside) - 1:,} more" if len(outside) > 1 else outside[0]
        yield f"{what}: outside the file, which has {size:,} bytes, wanted {end:,}"
    elif gaps and size > padded(position, alignment):  # where there are no tensors, padding may be there or not
        yield f"the tensors end at byte {position:,}, the file at {size:,}"
