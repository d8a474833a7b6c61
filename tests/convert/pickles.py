"""Pickles by hand: put together, read, refused, and read within bounds of memory and time."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llama_convert.convert.containers.unpickler import PickleError, unpickle
from tests.convert.support import traced_memory

START = b"\x80\x02"  # PROTO 2


def read(data: bytes) -> object:
    return unpickle(io.BytesIO(data))


def refusal(data: bytes) -> str:
    with pytest.raises(PickleError) as caught:
        read(data)
    return str(caught.value)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


@contextmanager
def bounded(megabytes: float = 100, seconds: float = 5) -> Iterator[None]:
    """What runs within takes no more memory and no more of the processor."""
    start = time.process_time()
    with traced_memory() as peak:
        yield
        assert time.process_time() - start < seconds
        assert peak() < megabytes * 2**20
