"""`.pth` files by their index: the zip that torch has written since 1.6, and the stream before it.

Only the table of contents and the pickle are read, over any byte source. Layout: formats of
torch/serialization.py and caffe2/serialize/inline_container.cc.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_convert.convert.containers.lookalikes import refuse_lookalikes
from llama_convert.convert.containers.slices import ByteSource, Record, TensorFile, TensorSlice
from llama_convert.convert.containers.sources import FarError, is_far
from llama_convert.convert.containers.unpickler import LONGEST_PICKLE, PickleError, Storage, StoredTensor, unpickle
from llama_convert.convert.containers.zip_reading import ZIP_START, Reader, failed, read_archive
from llama_convert.convert.errors import CheckpointError, counted

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a `.pth` holds: the unpickled object, and where each storage's bytes are. checksummed: all records."""

    root: Any
    records: Mapping[str, Record]
    stem: str | None
    index_sha256: str | None
    checksummed: tuple[Record, ...] = ()


def read_pth(source: ByteSource, nested: Sequence[str] = ()) -> TensorFile:
    """The tensors of a `.pth` file by name, from its index alone; no weight is read, nothing is executed.

    nested: names under which a training run keeps the state dict among other things; where the file has
    exactly one of them, its tensors are given, and the names of the rest.
    Raises CheckpointError: no `.pth`, truncated, compressed, foreign entries (all of them named).
    Cost: the index and the pickle, well under a megabyte even for 405B shards.
    """
    start = source.read(0, 512)
    contents = _read_zip(source) if start.startswith(ZIP_START) else _read_legacy(source, start)
    state, beside = _state(contents.root, nested)
    return TensorFile(
        path=source.path,
        size=source.size,
        tensors=_tensors(source, _stored(source, state), contents.records),
        stem=contents.stem,
        index_sha256=contents.index_sha256,
        beside=beside,
        records=contents.checksummed,
    )


def _state(root: Any, nested: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """The dict of tensors, and what else the file holds by name."""
    found = [name for name in nested if isinstance(root, dict) and isinstance(root.get(name), dict)]
    if len(found) != 1 or any(isinstance(value, StoredTensor) for value in root.values()):
        return root, ()
    return root[found[0]], tuple(str(name) for name in root if name != found[0])


# --- the zip container ---------------------------------------------------------------------------


def _read_zip(source: ByteSource) -> _Contents:
    archive = read_archive(source)
    records = archive.records
    stem = _stem(source, records)
    _check_byte_order(source, records.get(f"{stem}/byteorder"))
    pickle = records[f"{stem}/data.pkl"]
    if pickle.nbytes > LONGEST_PICKLE:
        raise failed(source, f"its pickle claims {pickle.nbytes:,} bytes, which no checkpoint needs")
    root = _unpickle(source, io.BytesIO(source.read(pickle.offset, pickle.nbytes)))
    prefix = f"{stem}/data/"
    storages = {name[len(prefix) :]: record for name, record in records.items() if name.startswith(prefix)}
    checksummed = tuple(record for record in records.values() if record.crc32 is not None)
    return _Contents(root, storages, stem, hashlib.sha256(archive.directory).hexdigest(), checksummed)


def _stem(source: ByteSource, names: Iterable[str]) -> str:
    stems = [name[: -len("/data.pkl")] for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(stems) != 1:
        raise failed(
            source,
            f"a zip archive, but not one that torch.save wrote: it has {len(stems) or 'no'} data.pkl",
            "Is this the right file?",
        )
    return stems[0]


def _check_byte_order(source: ByteSource, record: Record | None) -> None:
    if record is not None and source.read(record.offset, min(record.nbytes, 16)) != b"little":
        raise failed(source, "saved on a big-endian machine", "Save it again on a little-endian one.")


# --- the legacy stream ---------------------------------------------------------------------------


def _read_legacy(source: ByteSource, start: bytes) -> _Contents:
    """Five pickles (magic, protocol, system, object, storage keys), then each storage: int64 count, bytes."""
    refuse_lookalikes(source, start)
    stream = io.BufferedReader(Reader(source), buffer_size=1 << 16)
    try:
        magic, protocol = unpickle(stream), unpickle(stream)
    except PickleError:
        magic = protocol = None
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise failed(source, f"not a .pth file: it starts with {start[:16]!r}", "Is this the right file?")
    if is_far(source.path):
        raise FarError(
            f"{source.path}: saved in the way before torch 1.6, without a table of contents: "
            "it cannot be listed without fetching all of it",
            advice="Download it first.",
        )
    _unpickle(source, stream)
    root = _unpickle(source, stream)
    keys = _unpickle(source, stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        raise failed(source, "damaged: its list of storages is none")
    return _Contents(root, dict(_legacy_records(source, stream, keys, _storages(root))), None, None)


def _storages(root: Any) -> dict[str, Storage]:
    """Every storage that a tensor anywhere in it lies in; what is there many times is looked at once."""
    found, seen, waiting = {}, set(), [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, StoredTensor):
            found[value.storage.key] = value.storage
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    return found


def _legacy_records(
    source: ByteSource, stream: io.BufferedReader[Reader], keys: list[str], storages: Mapping[str, Storage]
) -> Iterator[tuple[str, Record]]:
    for key in keys:
        storage = storages.get(key)
        if storage is None:
            raise failed(source, f"storage {key} belongs to no tensor")
        count = stream.read(8)
        offset = stream.tell()
        nbytes = storage.elements * storage.dtype.nbytes
        if len(count) < 8 or offset + nbytes > source.size:
            raise failed(source, f"truncated: storage {key} ends beyond the file's {source.size:,} bytes")
        if int.from_bytes(count, "little") != storage.elements:
            raise failed(
                source,
                f"storage {key} says {int.from_bytes(count, 'little')} elements, its tensors {storage.elements}",
            )
        yield storage.key, Record(file=source.path, name=key, offset=offset, nbytes=nbytes, crc32=None)
        stream.seek(offset + nbytes)


# --- tensors -------------------------------------------------------------------------------------


def _unpickle(source: ByteSource, stream: Any) -> Any:
    try:
        return unpickle(stream)
    except PickleError as error:
        raise failed(
            source, f"refused: {error}", "Nothing of it was executed. Do not load this file with torch.load."
        ) from error


def _tensors(
    source: ByteSource, stored: Mapping[str, StoredTensor], records: Mapping[str, Record]
) -> dict[str, TensorSlice]:
    return {name: _slice(source, name, tensor, records) for name, tensor in stored.items()}


def _stored(source: ByteSource, root: Any) -> dict[str, StoredTensor]:
    if not isinstance(root, dict):
        raise failed(source, f"holds a {type(root).__name__}, not a dict of tensors", "Is this a checkpoint?")
    foreign = [f"{name}: {type(value).__name__}" for name, value in root.items() if not isinstance(value, StoredTensor)]
    if foreign:
        raise CheckpointError(
            f"{source.path}: holds more than tensors ({counted(len(foreign), 'foreign value')})",
            problems=foreign[:50],
            advice="Save the state dict alone: a dict from names to tensors.",
        )
    return {str(name): tensor for name, tensor in root.items()}


def _slice(source: ByteSource, name: str, tensor: StoredTensor, records: Mapping[str, Record]) -> TensorSlice:
    record = records.get(tensor.storage.key)
    if record is None:
        raise failed(source, f"tensor {name} lies in record data/{tensor.storage.key}, which is missing")
    start = tensor.offset * tensor.dtype.nbytes
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    end = start + (last + 1) * tensor.dtype.nbytes
    if 0 in tensor.shape or end > record.nbytes:
        raise failed(
            source,
            f"tensor {name} {tensor.shape} reaches outside record {record.name} of {record.nbytes:,} bytes",
        )
    return TensorSlice(
        file=source.path,
        offset=record.offset + start,
        dtype=tensor.dtype,
        shape=tensor.shape,
        strides=None if _is_contiguous(tensor) else tensor.strides,
        record=record,
    )


def _is_contiguous(tensor: StoredTensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
