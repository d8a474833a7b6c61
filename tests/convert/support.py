"""Bytes of tensors, how files are damaged, and a whole conversion."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.containers.slices import DType, TensorSlice
from tests.checkpoints import Case

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "truncate", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 255),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=5,
)


def edited(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """The data after these edits; places are fractions of its length at that moment."""
    for kind, fraction, number, piece in edits:
        place = int(fraction * len(data))
        data = {
            "flip": lambda data, at, number, _: data[:at] + bytes([data[at] ^ number]) + data[at + 1 :],
            "insert": lambda data, at, _, piece: data[:at] + piece + data[at:],
            "delete": lambda data, at, number, _: data[:at] + data[at + number :],
            "truncate": lambda data, at, *_: data[:at],
            "repeat": lambda data, at, number, _: data[: at + number] + data[at:],
        }[kind](data or b"\0", place, number, piece)
    return data


@contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """Gives a function: the most bytes that Python has held at any moment since."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def raw(tensor: Tensor) -> bytes:
    """The elements' bytes in order."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def dtype_of(tensor: Tensor) -> DType:
    return next(dtype for dtype in DType if getattr(torch, dtype.label, None) is tensor.dtype)


def gather(tensor: TensorSlice) -> bytes:
    """The elements' bytes in order, picked by offset and strides: the slowest and plainest way."""
    content = np.frombuffer(Path(tensor.file).read_bytes(), np.uint8)
    strides = tensor.strides or [prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    places = sum(
        (index * stride for index, stride in zip(np.indices(tensor.shape), strides, strict=True)),
        np.zeros(tensor.shape, int),
    )
    starts = tensor.offset + places.reshape(-1, 1) * tensor.dtype.nbytes
    return content[starts + np.arange(tensor.dtype.nbytes)].tobytes()


def converted(source: Path, target: Path, to: str, version: str | None = None, **request: object) -> Path:
    """The folder that a conversion writes; request as the fields of Request."""
    plan = plan_conversion(source, to=to, request=Request(**request), llama_version=version)  # type: ignore[arg-type]
    return convert_checkpoint(plan, target).folder


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from x0 y0 x1 y1 ... to x0 x1 ... y0 y1 ...: the formula that transformers published."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def context_of(case: Case) -> int:
    """The positions that the case's version was made for, by Meta's model cards."""
    contexts = {"1": 2048, "2": 4096, "code": 16384, "3": 8192, "guard-1": 4096, "guard-2": 8192}
    return contexts.get(case.version, 131072)


def equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """The same names, and under each the same type, shape and bits."""
    return found.keys() == wanted.keys() and all(
        found[name].dtype is wanted[name].dtype
        and found[name].shape == wanted[name].shape
        and raw(found[name]) == raw(wanted[name])
        for name in wanted
    )


def small_files(folder: Path) -> dict[str, bytes]:
    """All but Meta's own files and the certificate."""
    names = [path.name for path in folder.iterdir() if path.is_file() and path.name != "conversion.json"]
    return {name: (folder / name).read_bytes() for name in names}
