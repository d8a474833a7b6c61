"""A checkpoint on the Hub as a folder that can be opened: small files fetched, weights read by ranges as asked for.

Weight files and vocabularies lie there as empty files with their bytes mounted. Opening reads their tables of
contents; nobody can take the empty files for weights. What the client's cache holds is linked instead.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from llama_convert.convert.containers import WEIGHTS
from llama_convert.convert.containers.slices import ByteSource
from llama_convert.convert.containers.sources import FarError, mounted
from llama_convert.convert.errors import ConvertError
from llama_convert.hub.client_cache import held
from llama_convert.hub.errors import HubError
from llama_convert.hub.layouts import Choice
from llama_convert.hub.pages import PAGE, Pages
from llama_convert.hub.remote import RemoteFile
from llama_convert.hub.repository import RemoteEntry, Snapshot

_TABLE_AT_END = (".pth", ".pt", ".bin")
_SMALL = (".json", ".chk", ".jinja")
_VOCABULARIES = ("tokenizer.json", "vocab.json")  # it is enough to see that they are there
_LARGEST_FETCHED = 4 << 20  # bytes; the index of 405B's weight files has 0.2 MB
_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A checkpoint laid out. place: what to open. base: what users must not see of its path."""

    place: Path
    base: Path

    def known_as(self, path: Path) -> Path:
        """What a user knows the path by: `organisation/name@commit/...`; of a path elsewhere itself."""
        return path.relative_to(self.base) if path.is_relative_to(self.base) else path


@contextmanager
def laid_out(snapshot: Snapshot, choice: Choice) -> Iterator[Mount]:
    """The checkpoint as a temporary folder, gone when the block ends; errors in the block name files as users do.

    Raises HubError: no access, no network. Cost: two requests for each file but the large ones that nobody reads,
    three for a `.pth`, eight files at a time; of each weight file its first page, and of a `.pth` its last 64 kB.
    None for a file that the cache holds.
    """
    base = Path(tempfile.mkdtemp(prefix="llama-convert-")).resolve()
    try:
        root = base / f"{snapshot.repository}@{snapshot.commit[:12]}"
        paths = {_inside(root, entry): entry for entry in choice.entries}
        missing = {path: entry for path, entry in paths.items() if not _lay(path, held(snapshot.repository, entry))}
        sources = {path: Pages(RemoteFile(snapshot, entry), path) for path, entry in missing.items()}
        _prepare(sources)
        far = {path: source for path, source in sources.items() if not _is_fetched(path, source)}
        with mounted(far):
            yield Mount(place=root / choice.place, base=base)
    except ConvertError as error:
        fetch = f"Run: llama-convert download {snapshot.asked} --what {choice}" if isinstance(error, FarError) else ""
        raise _renamed(error, f"{base}/", fetch) from error
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _lay(path: Path, here: Path | None) -> bool:
    """Give the path its file: a link to what is here, or an empty one; whether it is the former."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if here is None:
        path.touch()
    else:
        path.symlink_to(here)
    return here is not None


def _renamed(error: ConvertError, base: str, advice: str) -> ConvertError:
    return type(error)(
        error.summary.replace(base, ""),
        problems=[problem.replace(base, "") for problem in error.problems],
        advice=advice or error.advice.replace(base, ""),
    )


def _inside(root: Path, entry: RemoteEntry) -> Path:
    parts = PurePosixPath(entry.path).parts
    if not parts or ".." in parts or PurePosixPath(entry.path).is_absolute():
        raise HubError(f"{entry.path!r}: no name of a file in a repository", advice="Do not trust this repository.")
    return root.joinpath(*parts)


def _is_fetched(path: Path, source: ByteSource) -> bool:
    return path.suffix in _SMALL and path.name not in _VOCABULARIES and source.size <= _LARGEST_FETCHED


def _prepare(sources: dict[Path, Pages]) -> None:
    """Fetch small files, and of weight files what every reader looks at, side by side."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="hub") as pool:
        tasks = [pool.submit(partial(_look, path, source)) for path, source in sources.items()]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _look(path: Path, source: Pages) -> None:
    if _is_fetched(path, source):
        path.write_bytes(source.read(0, source.size))
    elif path.suffix in WEIGHTS:
        source.read(0, PAGE)
        if path.suffix in _TABLE_AT_END:
            source.read(max(source.size - PAGE, 0), PAGE)
