"""Files held against their digests, each once: what was found is remembered for as long as the file is the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llama_convert.convert.digests import GIT_SHA1, SHA256, Extent, all_of, read_digests
from llama_convert.hub.repository import RemoteEntry
from llama_convert.hub.small_files import read_values, write_text

_THREADS = 4


class Memory:
    """Which files had which digest, by path, size, time of change and number on the disk; kept in the user's cache.

    Losing it, or not being able to write it, costs a reading of the files (1 GB/s) and nothing else.
    """

    def __init__(self) -> None:
        root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        self._path = Path(root).expanduser() / "llama-convert" / "checked.json"
        self._known = read_values(self._path)
        self._before = dict(self._known)

    def holds(self, file: Path, digest: str) -> bool:
        """Whether it was found to have this digest, and has not changed since."""
        return self._known.get(str(file.absolute())) == _marks(file, digest)

    def note(self, file: Path, digest: str) -> None:
        """It has this digest."""
        self._known[str(file.absolute())] = _marks(file, digest)

    def save(self) -> None:
        """Write down what came to be known, without files that are gone."""
        kept = {name: marks for name, marks in self._known.items() if Path(name).exists()}
        if kept == self._before:
            return
        try:
            write_text(self._path, json.dumps(kept, indent=1))
        except OSError:  # such as a cache that is mounted read-only
            return
        self._before = kept


def _marks(file: Path, digest: str) -> list[Any]:
    found = file.stat()
    return [digest, found.st_size, found.st_mtime_ns, found.st_ino]


def same_size(file: Path, entry: RemoteEntry) -> bool:
    """Whether a file is there and as long as the Hub's."""
    return file.is_file() and file.stat().st_size == entry.size


def is_whole(file: Path, entry: RemoteEntry, memory: Memory) -> bool:
    """Whether the file is the Hub's, by its digest. Cost: one reading of it, where that is not remembered."""
    if not same_size(file, entry):
        return False
    if memory.holds(file, entry.digest):
        return True
    extent = Extent(SHA256 if entry.sha256 else GIT_SHA1, all_of(file))
    if read_digests(file, [extent])[extent] != entry.digest:
        return False
    memory.note(file, entry.digest)
    return True


def all_whole(
    files: Sequence[tuple[Path, RemoteEntry]], memory: Memory, on_bytes: Callable[[int], None]
) -> set[tuple[Path, str]]:
    """Those of the files that are the Hub's, as (file, digest). on_bytes: called with the bytes of each that was read.

    Cost: one reading of each file, several at a time.
    """

    def checked(pair: tuple[Path, RemoteEntry]) -> bool:
        whole = is_whole(*pair, memory)
        on_bytes(pair[1].size)
        return whole

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="digest") as pool:
        verdicts = pool.map(checked, files)
        return {(file, entry.digest) for (file, entry), whole in zip(files, verdicts, strict=True) if whole}
