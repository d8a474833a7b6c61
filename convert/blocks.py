"""Expressions evaluated, a block of rows at a time: numpy views over raw bytes, arithmetic only where values change.

A block is a uint8 array (rows, bytes per row). One-dimensional tensors have one element a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import lcm, prod
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llama_convert.convert.architecture import Rotary
from llama_convert.convert.arithmetic import cast
from llama_convert.convert.containers.slices import Coding, DType, Scaled, TensorSlice
from llama_convert.convert.containers.sources import byte_source, is_far, refuse_far
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.expressions import (
    Cast,
    Columns,
    Decoded,
    EveryNthHead,
    Expression,
    Grouped,
    Joined,
    Made,
    RotaryOrder,
    Stored,
)
from llama_convert.convert.expressions import cast as cast_to
from llama_convert.convert.making import mean_row, normal_rows
from llama_convert.convert.quantisation import decode_affine, decode_scaled
from llama_convert.convert.quantisation.groups import quantise_groups
from llama_convert.convert.vocabulary import Init

Block: TypeAlias = NDArray[np.uint8]

# Bytes of a block: large enough that system calls do not count, small enough to stay in the CPU's cache.
BLOCK_BYTES = 4 << 20


class OpenFiles:
    """Read handles of the source files, opened once each and closed together."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._kept: dict[Expression, Block] = {}
        self._making: dict[Expression, Lock] = {}

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._kept.clear()

    def descriptor(self, path: Path) -> int:
        """The file's descriptor, for reading by position; FarError where its bytes are not on this machine."""
        if path not in self._descriptors:
            refuse_far(path)
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        return self._descriptors[path]

    def read_into(self, path: Path, offset: int, block: Block) -> None:
        """Fill a contiguous block with the bytes at offset; CheckpointError where the file ends before."""
        view = block.data.cast("B")
        far = is_far(path)
        while view:
            count = _copy(path, offset, view) if far else os.preadv(self.descriptor(path), [view], offset)
            if not count:
                raise CheckpointError(
                    f"{path}: ended at byte {offset:,} while being read; was it changed?",
                    advice="Let nothing else write to the checkpoint, and start again.",
                )
            view, offset = view[count:], offset + count

    def kept(self, key: Expression, make: Callable[[], Block]) -> Block:
        """What `make` gives, made once for all that ask with this key, whatever thread they are in."""
        with self._making.setdefault(key, Lock()):
            if key not in self._kept:
                self._kept[key] = make()
            return self._kept[key]


def _copy(path: Path, offset: int, view: memoryview) -> int:
    """Fill the view from the path's byte source; how many bytes came."""
    data = byte_source(path).read(offset, len(view))
    view[: len(data)] = data
    return len(data)


def rows_of(expression: Expression) -> int:
    """Rows of the tensor as blocks count them."""
    return expression.shape[0] if expression.shape else 1


def row_bytes(expression: Expression) -> int:
    """Bytes of one such row."""
    return expression.dtype.size(prod(expression.shape[1:]))


def blocks(expression: Expression, files: OpenFiles, size: int = BLOCK_BYTES) -> Iterator[Block]:
    """The tensor's bytes from first to last, in blocks of whole rows (whole heads where rows are reordered).

    size: bytes a block should have; a single row or head may be larger.
    Memory: about three blocks, whatever the size of the tensor.
    """
    for start, stop in spans(expression, size):
        yield read(expression, start, stop, files)


def spans(expression: Expression, size: int = BLOCK_BYTES, *others: Expression) -> Iterator[tuple[int, int]]:
    """First row and row behind the last of each such block; of one that suits `others` of its shape as well."""
    unit = max(map(_unit, (expression, *others)))
    rows = max(size // max(row_bytes(expression) * unit, 1), 1) * unit
    for start in range(0, rows_of(expression), rows):
        yield start, min(start + rows, rows_of(expression))


def _unit(expression: Expression) -> int:
    """Rows that must stay together."""
    if isinstance(expression, (RotaryOrder, EveryNthHead)):
        return expression.head_dim
    if isinstance(expression, Joined):
        return lcm(*(_unit(part) for part in expression.parts))
    return _unit(expression.source) if isinstance(expression, (Cast, Columns, Grouped)) else 1


def read(expression: Expression, start: int, stop: int, files: OpenFiles) -> Block:
    """Rows start to stop of the tensor that the expression describes."""
    if isinstance(expression, Stored):
        return _stored(expression.slice, start, stop, files)
    if isinstance(expression, Decoded):
        return _decoded(expression.scaled.rows(start, stop), files)
    if isinstance(expression, Columns):
        return _columns(expression, start, stop, files)
    if isinstance(expression, Joined):
        return (_joined_rows if expression.axis == 0 else _joined_columns)(expression, start, stop, files)
    if isinstance(expression, RotaryOrder):
        return _reordered(read(expression.source, start, stop, files), expression)
    if isinstance(expression, EveryNthHead):
        return _every_nth_head(expression, start, stop, files)
    if isinstance(expression, Made):
        return _made(expression, start, stop, files)
    return rounded(expression, read(expression.source, start, stop, files))


def rounded(expression: Cast | Grouped, block: Block) -> Block:
    """The expression's rows, made from those of its source."""
    if isinstance(expression, Cast):
        return cast(block, expression.source.dtype, expression.dtype)
    codes, scales = quantise_groups(block.view(np.float32), expression.group)
    return (scales if expression.scales else codes).view(np.uint8)


def _stored(tensor: TensorSlice, start: int, stop: int, files: OpenFiles) -> Block:
    if tensor.strides is not None:
        return _gathered(tensor, start, stop)
    width = tensor.dtype.size(prod(tensor.shape[1:]))
    block = np.empty((stop - start, width), np.uint8)
    files.read_into(tensor.file, tensor.offset + start * width, block)
    return block


def _decoded(scaled: Scaled, files: OpenFiles) -> Block:
    codes, scales, *biases = (_stored(found, 0, found.shape[0] if found.shape else 1, files) for found in scaled.slices)
    factors = [
        cast(found, tensor.dtype, DType.FLOAT32).view(np.float32)
        for found, tensor in zip((scales, *biases), scaled.slices[1:], strict=True)
    ]
    if scaled.coding is Coding.AFFINE:
        values = decode_affine(codes.view(np.uint32), factors[0], factors[1], scaled.bits, scaled.group)
    else:
        values = decode_scaled(codes, scaled.codes.dtype, factors[0], scaled.tile)
    return values.view(np.uint8)


def _columns(expression: Columns, start: int, stop: int, files: OpenFiles) -> Block:
    """Of a quantised type the columns must be whole blocks."""
    first, last = expression.dtype.size(expression.start), expression.dtype.size(expression.stop)
    return np.ascontiguousarray(read(expression.source, start, stop, files)[:, first:last])


def _gathered(tensor: TensorSlice, start: int, stop: int) -> Block:
    """Rows of a tensor whose elements do not lie in order; the file is mapped, so pages are the system's."""
    refuse_far(tensor.file)
    strides = tensor.strides or ()
    item = tensor.dtype.nbytes
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    mapped = np.memmap(tensor.file, np.uint8, "r", tensor.offset, (span * item,))
    elements: Block = np.lib.stride_tricks.as_strided(
        mapped, (*tensor.shape, item), (*(stride * item for stride in strides), 1), writeable=False
    )
    # Always a copy: single rows can lie in order, and a read-only view into the file is no block.
    return np.array(elements[start:stop], order="C").reshape(stop - start, -1)


def _joined_rows(expression: Joined, start: int, stop: int, files: OpenFiles) -> Block:
    pieces = []
    for part in expression.parts:
        rows = rows_of(part)
        if start < rows and stop > 0:
            pieces.append(read(part, max(start, 0), min(stop, rows), files))
        start, stop = start - rows, stop - rows
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _joined_columns(expression: Joined, start: int, stop: int, files: OpenFiles) -> Block:
    return np.concatenate([read(part, start, stop, files) for part in expression.parts], axis=1)


def _reordered(block: Block, expression: RotaryOrder) -> Block:
    half = expression.head_dim // 2
    pairs = (-1, half, 2) if expression.order is Rotary.HALVES else (-1, 2, half)
    reordered: Block = block.reshape(*pairs, block.shape[1]).swapaxes(1, 2).reshape(block.shape)
    return reordered


def _every_nth_head(expression: EveryNthHead, start: int, stop: int, files: OpenFiles) -> Block:
    rows = expression.head_dim
    heads = range(start // rows * expression.step, stop // rows * expression.step, expression.step)
    return np.concatenate([read(expression.source, head * rows, (head + 1) * rows, files) for head in heads])


def _made(expression: Made, start: int, stop: int, files: OpenFiles) -> Block:
    """Rows that are all alike are made once, whichever of them is asked for; random ones all at once."""
    source, new = expression.source, expression.new
    if new.init is not Init.NORMAL:
        one = replace(expression, count=1, first=0)
        row = files.kept(one, lambda: _row_for_all(one, files))
        return np.repeat(row, stop - start, axis=0)
    numbers = range(expression.first, expression.first + expression.count)
    drawn = files.kept(
        expression, lambda: normal_rows(blocks(source, files), source.dtype, expression.dtype, numbers, new.seed)
    )
    return drawn[start:stop]


def _row_for_all(one: Made, files: OpenFiles) -> Block:
    source, new = one.source, one.new
    if new.init is Init.MEAN:
        return mean_row(blocks(source, files), source.dtype, one.dtype)
    if new.init is Init.COPY:
        assert new.source is not None  # a copy is of a row
        return read(cast_to(source, one.dtype), new.source, new.source + 1, files)
    return np.zeros((1, row_bytes(one)), np.uint8)
