"""Where the bytes of a path are: in the file itself, or in what is mounted there, such as a file on the Hub.

A checkpoint on the Hub is opened as a folder whose weight files are empty: whoever reads such a file by other
means than its byte source finds nothing there, never zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llama_convert.convert.containers.slices import ByteSource, LocalFile
from llama_convert.convert.errors import UsageError


class FarError(UsageError):
    """It takes all bytes of a file that is not on this machine."""


# For all threads: readers share their work out to others.
_MOUNTED: dict[Path, ByteSource] = {}
_SPARED: set[Path] = set()  # those of which no values are to be read, however few


def byte_source(path: Path) -> ByteSource:
    """What the path's bytes are read from."""
    return _MOUNTED.get(path) or LocalFile(path)


def is_far(path: Path) -> bool:
    """Whether something is mounted there: its bytes have a price, and no more than needed are read."""
    return path in _MOUNTED


def is_spared(path: Path) -> bool:
    """Whether something is mounted there of which only tables of contents are asked for."""
    return path in _SPARED


def refuse_far(path: Path) -> None:
    """FarError for a path whose bytes are not on this machine: for readers that need a real file."""
    if is_far(path):
        raise FarError(f"{path}: its bytes are not on this machine", advice="Download it first.")


@contextmanager
def mounted(sources: Mapping[Path, ByteSource], *, spared: bool = True) -> Iterator[None]:
    """Have these paths read from these sources meanwhile, in every thread.

    The paths must exist, as empty files, and be spelled as they will be asked for. Nothing may be mounted there.
    spared: as `is_spared` tells it of them.
    """
    taken = [str(path) for path in sources if is_far(path)]
    if taken:
        raise ValueError(f"mounted already: {', '.join(taken)}")
    _MOUNTED.update(sources)
    _SPARED.update(sources if spared else ())
    try:
        yield
    finally:
        _SPARED.difference_update(sources)
        for path in sources:
            del _MOUNTED[path]
