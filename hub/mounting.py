"""A checkpoint on the Hub as a folder that can be opened: small files fetched, weights read by ranges as asked for.

Weight files and vocabularies lie there as empty files with their bytes mounted. Opening reads their tables of
contents; nobody can take the empty files for weights. What the client's cache holds is linked instead.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
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
    """A checkpoint laid out. place: what to open. root: the repository's, which users must not see; name: for that."""

    place: Path
    root: Path
    name: str

    def known_as(self, path: Path) -> Path:
        """What a user knows the path by: `organisation/name@commit/...`; of a path elsewhere itself."""
        return Path(self.name) / path.relative_to(self.root) if path.is_relative_to(self.root) else path


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a checkpoint will lie. root: of the repository there. held: files that are here, by their paths in it."""

    root: Path
    held: Mapping[str, Path]


@contextmanager
def laid_out(snapshot: Snapshot, choice: Choice, destination: Destination | None = None) -> Iterator[Mount]:
    """The checkpoint as a temporary folder, gone when the block ends; errors in the block name files as users do.

    destination: lay it out so that all that a conversion looks at before it begins is the same as there: below a path
    that ends like its root, with the files that are held, and with every file that is no weight file.
    Raises HubError: no access, no network. Cost: two requests for each file but the large ones that nobody reads,
    three for a `.pth`, eight files at a time; of each weight file its first page, and of a `.pth` its last 64 kB.
    None for a file that the cache holds.
    """
    base = Path(tempfile.mkdtemp(prefix="llama-convert-")).resolve()
    name = f"{snapshot.repository}@{snapshot.commit[:12]}"
    root = base / (destination.root.absolute().relative_to("/") if destination else name)
    try:
        sources = dict(_laid(snapshot, choice, root, destination.held if destination else _cached(snapshot, choice)))
        whole = {
            path for path, source in sources.items() if _is_fetched(path, source) or _is_planned(path, destination)
        }
        _prepare(sources, whole)
        far = {path: source for path, source in sources.items() if path not in whole}
        with mounted(far, spared=destination is None):
            yield Mount(place=root / choice.place, root=root, name=name)
    except ConvertError as error:
        fetch = f"Run: llama-convert download {snapshot.asked} --what {choice}" if isinstance(error, FarError) else ""
        raise _renamed(error, {str(root): name, f"{base}/": "/" if destination else ""}, fetch) from error
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _cached(snapshot: Snapshot, choice: Choice) -> dict[str, Path]:
    """Files that the cache holds, by their paths in the repository."""
    found = {entry.path: held(snapshot.repository, entry) for entry in choice.entries}
    return {path: file for path, file in found.items() if file}


def _laid(snapshot: Snapshot, choice: Choice, root: Path, here: Mapping[str, Path]) -> Iterator[tuple[Path, Pages]]:
    """Make every file: a link to what is held, else an empty one, which is given with the source of its bytes."""
    for entry in choice.entries:
        path = _inside(root, entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.path in here:
            path.symlink_to(here[entry.path].absolute())
        else:
            path.touch()
            yield path, Pages(RemoteFile(snapshot, entry), path)


def _renamed(error: ConvertError, names: Mapping[str, str], advice: str) -> ConvertError:
    def told(text: str) -> str:
        for path, name in names.items():
            text = text.replace(path, name)
        return text

    return type(error)(
        told(error.summary), problems=list(map(told, error.problems)), advice=advice or told(error.advice)
    )


def _inside(root: Path, entry: RemoteEntry) -> Path:
    parts = PurePosixPath(entry.path).parts
    if not parts or ".." in parts or PurePosixPath(entry.path).is_absolute():
        raise HubError(f"{entry.path!r}: no name of a file in a repository", advice="Do not trust this repository.")
    return root.joinpath(*parts)


def _is_fetched(path: Path, source: ByteSource) -> bool:
    return path.suffix in _SMALL and path.name not in _VOCABULARIES and source.size <= _LARGEST_FETCHED


def _is_planned(path: Path, destination: Destination | None) -> bool:
    """Whether planning a conversion may look at all of it: a tokenizer, a licence."""
    return destination is not None and path.suffix not in WEIGHTS


def _prepare(sources: Mapping[Path, Pages], whole: Collection[Path]) -> None:
    """Fetch small files, and of weight files what every reader looks at, side by side."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="hub") as pool:
        tasks = [pool.submit(partial(_look, path, source, whole=path in whole)) for path, source in sources.items()]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _look(path: Path, source: Pages, *, whole: bool) -> None:
    if whole:
        path.write_bytes(source.read(0, source.size))
    elif path.suffix in WEIGHTS:
        source.read(0, PAGE)
        if path.suffix in _TABLE_AT_END:
            source.read(max(source.size - PAGE, 0), PAGE)
