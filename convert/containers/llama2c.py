"""llama2.c's `.bin` files, versions 0 to 2: read from their header, or laid out before the first byte is written.

All of a file follows from nine numbers: kinds of tensors one after the other, each kind for all layers at once.
Version 0 has no magic number and carries rotary tables; version 1 has a header of 256 bytes; version 2 stores
matrices as int8 with a float32 scale for each group of elements. Names are Meta's, and so is the rotary order.
Sources: karpathy/llama2.c export.py and model.py (Python), run.c and runq.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.containers.lookalikes import refuse_lookalikes
from llama_convert.convert.containers.slices import ByteSource, DType, TensorFile, TensorSlice
from llama_convert.convert.errors import CheckpointError, UsageError

_MAGIC = (0x616B3432).to_bytes(4, "little")
_SIZES = struct.Struct("<7i")
_SIZE_NAMES = ("dim", "hidden_dim", "layers", "heads", "kv_heads", "vocab", "context")  # as they stand there
_FLAGS = struct.Struct("<Bi")  # output shared, group size
_FLAGS_OFFSET = 8 + _SIZES.size
_HEADER_BYTES = (_SIZES.size, 256, 256)  # by version
_MOST_LAYERS = 4096  # bound against headers made to exhaust whoever lists their tensors
_THETA = 10000.0  # the C programs know no other
_SCALES_LOOKED_AT = 4096

_ATTENTION = tuple(f"layers.{{layer}}.attention.{name}.weight" for name in ("wq", "wk", "wv", "wo"))
_FEED_FORWARD = tuple(f"layers.{{layer}}.feed_forward.{name}.weight" for name in ("w1", "w2", "w3"))
_TOKENS, _NORM, _OUTPUT = "tok_embeddings.weight", "norm.weight", "output.weight"
_ATTENTION_NORM, _FFN_NORM = "layers.{layer}.attention_norm.weight", "layers.{layer}.ffn_norm.weight"
_COS, _SIN = "freqs_cos", "freqs_sin"
_LATER = (_ATTENTION_NORM, _FFN_NORM, _NORM, _TOKENS, *_ATTENTION, *_FEED_FORWARD, _OUTPUT)
_LEGACY = (_TOKENS, _ATTENTION_NORM, *_ATTENTION, _FFN_NORM, *_FEED_FORWARD, _NORM, _COS, _SIN, _OUTPUT)
_ORDERS = (_LEGACY, _LATER, _LATER)  # by version


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of its model. Sizes in elements; context in tokens.

    shared: the output matrix is the embedding's, and not stored. group_size: elements that share a scale,
    version 2 only; 0 in the others.
    """

    version: int
    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    shared: bool
    group_size: int

    @property
    def head_dim(self) -> int:
        """Elements of one head."""
        return self.dim // self.heads


@dataclass(frozen=True, slots=True)
class Llama2cFile:
    """One opened file: its header and its tensors.

    Version 2 has for each int8 matrix `name` also `name.scales`, (rows, columns / group_size), float32.
    Version 0 has `freqs_cos` and `freqs_sin`, (context, head_dim / 2).
    """

    header: Header
    file: TensorFile


@dataclass(frozen=True, slots=True)
class Layout:
    """A file to be: its header, for each tensor in file order where its bytes will start, and version 0's tables.

    pieces: bytes that are no tensor of the model, with their offsets.
    """

    header: bytes
    offsets: tuple[tuple[str, int], ...]
    size: int
    pieces: tuple[tuple[int, bytes], ...]


def may_be_llama2c(start: bytes) -> bool:
    """Whether a file that starts like this can be llama2.c's: the magic number, or sizes that a model can have."""
    return start.startswith(_MAGIC) or _legacy_sizes(start) is not None


def read_llama2c(source: ByteSource) -> Llama2cFile:
    """The header and the tensors of a llama2.c file by name; of the weights only a few scales are read.

    Raises CheckpointError: no such file, sizes that cannot be, or a length other than the sizes make.
    """
    start = source.read(0, max(_HEADER_BYTES))
    refuse_lookalikes(source, start)
    header = _later_header(source, start) if start.startswith(_MAGIC) else _legacy_header(source, start)
    tensors = {
        name: TensorSlice(file=source.path, offset=offset, dtype=dtype, shape=shape)
        for name, dtype, shape, offset in _tensors(header)
    }
    if header.version == 2:
        _check_scales(source, tensors[f"{_TOKENS}.scales"])
    return Llama2cFile(header, TensorFile(path=source.path, size=source.size, tensors=tensors))


def lay_out(header: Header) -> Layout:
    """All of a file but its tensors' bytes.

    Version 0's tables are those of theta 10000, which C programs compute for themselves nowadays.
    Raises UsageError where the format has no room for such a model.
    """
    problems = _problems(header)
    if problems:
        raise UsageError(f"llama2.c files have no room for this model: {'; '.join(problems)}")
    places = {name: offset for name, _, _, offset in _tensors(header)}
    pieces = []
    if header.version == 0:
        tables = rotary_tables(header.context, header.head_dim)
        pieces = [(places.pop(name), table.tobytes()) for name, table in zip((_COS, _SIN), tables, strict=True)]
    return Layout(_header_bytes(header), tuple(places.items()), _size(header), tuple(pieces))


def rotary_tables(context: int, head_dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines of every position's angles, (context, head_dim / 2), for theta 10000.

    The angles are export.py's bit for bit; of the values, rounded correctly here, about one in ten is off by
    one unit in the last place there. Memory: 24 bytes an angle. Source: model.py, precompute_freqs_cis.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1) / np.power(_THETA, exponents.astype(np.float64)).astype(np.float32)
    angles = np.outer(np.arange(context, dtype=np.float32), frequencies).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


# --- sizes and places ------------------------------------------------------------------------------


def _shapes(header: Header) -> dict[str, tuple[int, ...]]:
    dim, hidden, key_values = header.dim, header.hidden_dim, header.kv_heads * header.head_dim
    vectors = dict.fromkeys((_ATTENTION_NORM, _FFN_NORM, _NORM), (dim,))
    attention = zip(_ATTENTION, (dim, key_values, key_values, dim), strict=True)
    feed_forward = zip(_FEED_FORWARD, ((hidden, dim), (dim, hidden), (hidden, dim)), strict=True)
    return {
        **vectors,
        **{name: (rows, dim) for name, rows in attention},
        **dict(feed_forward),
        **dict.fromkeys((_TOKENS, _OUTPUT), (header.vocab, dim)),
        **dict.fromkeys((_COS, _SIN), (header.context, header.head_dim // 2)),
    }


def _kinds(header: Header) -> Iterator[tuple[int, list[tuple[str, DType, tuple[int, ...]]]]]:
    """For each kind of tensor in file order: how many there are, and what is stored of one."""
    shapes = _shapes(header)
    for name in _ORDERS[header.version]:
        stored = [(name, DType.FLOAT32, shapes[name])]
        if header.version == 2 and len(shapes[name]) == 2:
            rows, columns = shapes[name]
            scales = (f"{name}.scales", DType.FLOAT32, (rows, columns // header.group_size))
            stored = [(name, DType.INT8, shapes[name]), scales]
        if name != _OUTPUT or not header.shared:
            yield header.layers if "{layer}" in name else 1, stored


def _size(header: Header) -> int:
    sizes = (count * sum(dtype.size(prod(shape)) for _, dtype, shape in stored) for count, stored in _kinds(header))
    return _HEADER_BYTES[header.version] + sum(sizes)


def _tensors(header: Header) -> Iterator[tuple[str, DType, tuple[int, ...], int]]:
    """(name, dtype, shape, offset) of everything stored, in file order."""
    position = _HEADER_BYTES[header.version]
    for count, stored in _kinds(header):
        for layer in range(count):
            for name, dtype, shape in stored:
                yield name.format(layer=layer), dtype, shape, position
                position += dtype.size(prod(shape))


# --- headers ---------------------------------------------------------------------------------------


def _legacy_header(source: ByteSource, start: bytes) -> Header:
    header = _legacy_sizes(start)
    if header is not None and _size(header) == source.size:
        return header
    raise CheckpointError(
        f"{source.path}: no llama2.c file: it starts neither with 'ak42' nor with sizes that make its "
        f"{source.size:,} bytes",
        advice="Is this the right file, and all of it?",
    )


def _legacy_sizes(start: bytes) -> Header | None:
    if len(start) < _SIZES.size:
        return None
    *sizes, vocab, context = _SIZES.unpack_from(start)
    header = _header(0, (*sizes, abs(vocab), context), shared=vocab > 0, group_size=0)
    return None if _problems(header) else header


def _later_header(source: ByteSource, start: bytes) -> Header:
    if len(start) < max(_HEADER_BYTES):
        raise _damaged(source, f"truncated: only {source.size:,} bytes")
    version = int.from_bytes(start[4:8], "little")
    if version not in (1, 2):
        raise _damaged(source, f"of version {version}; 1 and 2 are known", "Export it again as one of these.")
    shared, group_size = _FLAGS.unpack_from(start, _FLAGS_OFFSET)
    sizes = _SIZES.unpack_from(start, 8)
    header = _header(version, sizes, shared=bool(shared), group_size=group_size if version == 2 else 0)
    problems = _problems(header)
    if problems:
        raise _damaged(source, f"its header cannot be true: {'; '.join(problems)}")
    if _size(header) != source.size:
        raise _damaged(source, f"its sizes make {_size(header):,} bytes, it has {source.size:,}")
    return header


def _damaged(source: ByteSource, what: str, advice: str = "Fetch the file again.") -> CheckpointError:
    return CheckpointError(f"{source.path}: unusable llama2.c file: {what}", advice=advice)


def _header(version: int, sizes: Iterable[int], *, shared: bool, group_size: int) -> Header:
    named = dict(zip(_SIZE_NAMES, sizes, strict=True))
    return Header(version=version, shared=shared, group_size=group_size, **named)


def _sizes(header: Header) -> tuple[int, ...]:
    return tuple(getattr(header, name) for name in _SIZE_NAMES)


def _header_bytes(header: Header) -> bytes:
    if header.version == 0:
        *sizes, vocab, context = _sizes(header)
        return _SIZES.pack(*sizes, vocab if header.shared else -vocab, context)
    fields = _MAGIC + struct.pack("<i", header.version) + _SIZES.pack(*_sizes(header))
    return (fields + _FLAGS.pack(header.shared, header.group_size)).ljust(_HEADER_BYTES[header.version], b"\0")


def _problems(header: Header) -> list[str]:
    """What no model can have; with none, all sizes and places can be computed."""
    if header.version not in range(len(_ORDERS)):
        return [f"version {header.version}"]
    if not all(0 < size < 1 << 31 for size in _sizes(header)) or header.layers > _MOST_LAYERS:
        return [f"sizes {_sizes(header)}"]
    problems = []
    if header.dim % header.heads or header.head_dim % 2:
        problems.append(f"{header.heads} heads in {header.dim} dimensions")
    if header.heads % header.kv_heads:
        problems.append(f"{header.kv_heads} key-value heads for {header.heads} heads")
    return problems + _group_problems(header)


def _group_problems(header: Header) -> list[str]:
    # export.py lets a group run from one row of w2 into the next; runq.c then drops the rest of every row.
    group, dims = header.group_size, (header.dim, header.hidden_dim)
    if header.version == 2 and not (0 < group < 1 << 31 and all(dim % group == 0 for dim in dims)):
        return [f"groups of {group} in rows of {dims[0]} and {dims[1]}"]
    return [] if header.version == 2 or group == 0 else [f"groups in version {header.version}"]


def _check_scales(source: ByteSource, scales: TensorSlice) -> None:
    """Refuse the version 2 of an early export.py, of the same header and length but all scales at the end."""
    data = source.read(scales.offset, min(scales.nbytes, 4 * _SCALES_LOOKED_AT))
    if (np.frombuffer(data, np.float32) < 0).any():
        raise _damaged(source, "negative scales where those of the embedding should be", "Export it again.")
