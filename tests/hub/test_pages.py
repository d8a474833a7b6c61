"""Pages of a source: the same bytes, none fetched twice."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_convert.hub.errors import HubError
from llama_convert.hub.pages import PAGE, Pages

DATA = os.urandom(5 * PAGE + 1234)
SPANS = st.tuples(st.integers(0, len(DATA) + 99), st.integers(0, 2 * PAGE))


class Far:
    """Bytes that note what is read of them. fails: reads that fail before one succeeds."""

    path = Path("far")

    def __init__(self, data: bytes = DATA, fails: int = 0) -> None:
        self.data = data
        self.size = len(data)
        self.reads: list[tuple[int, int]] = []
        self.fails = fails

    def read(self, offset: int, nbytes: int) -> bytes:
        if self.fails:
            self.fails -= 1
            raise HubError("no connection")
        found = self.data[offset : offset + nbytes]
        self.reads.append((offset, offset + len(found)))
        return found


@given(st.lists(SPANS, max_size=12))
def test_the_same_bytes_and_each_fetched_once(spans: list[tuple[int, int]]) -> None:
    far = Far()
    pages = Pages(far, Path("here"))
    for offset, nbytes in spans:
        assert pages.read(offset, nbytes) == DATA[offset : offset + nbytes]
    fetched = [byte for start, stop in far.reads for byte in range(start // PAGE, -(-stop // PAGE))]
    assert len(fetched) == len(set(fetched))
    assert (str(pages.path), pages.size) == ("here", len(DATA))


def test_neighbours_come_in_one_read() -> None:
    far = Far()
    pages = Pages(far, Path("here"))
    pages.read(2 * PAGE, 1)
    pages.read(0, len(DATA))
    assert far.reads == [(2 * PAGE, 3 * PAGE), (0, 2 * PAGE), (3 * PAGE, len(DATA))]


def test_a_failed_read_is_made_again() -> None:
    pages = Pages(Far(fails=1), Path("here"))
    with pytest.raises(HubError):
        pages.read(10, 10)
    assert pages.read(10, 10) == DATA[10:20]


def test_threads_share_what_one_of_them_fetched() -> None:
    far = Far()
    pages = Pages(far, Path("here"))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: pages.read(5, 3 * PAGE), range(32))) == {DATA[5 : 5 + 3 * PAGE]}
    assert far.reads == [(0, 4 * PAGE)]
