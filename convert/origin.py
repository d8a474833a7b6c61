"""Where weights first came from: a repository at one commit, as the files beside them say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_convert.convert.claims import NAME
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.json_files import read_object

# What a download into a folder leaves there.
DOWNLOAD = Path(".cache", "llama-convert", "download.json")
# What the Hub's client notes there of the files, and our downloads for it.
CLIENT = Path(".cache", "huggingface")
_SNAPSHOT = re.compile(r".*/models--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})(/.*)?")
_DEEPEST = 2  # folders between a repository's root and its weights: original/mp16/


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """repository: `organisation/name` on the Hub. commit: 40 hexadecimal digits."""

    repository: str
    commit: str


def known_origin(folder: Path) -> Origin | None:
    """What a record of a download says of the folder, its place in the cache of the Hub's client, or conversion.json.

    None where none does. A conversion of a converted folder hands on what that one came from.
    """
    return _downloaded(folder) or _cached(folder) or origin_in(_values(folder / NAME).get("source"))


def name_of(path: Path) -> str:
    """What to call the checkpoint in this folder or file: its repository's name where it lies as it was fetched.

    Else the folder's, or the file's without its ending: folders of the cache are named after commits.
    """
    origin = _downloaded(path) or _cached(path)
    if origin is not None:
        return origin.repository.rpartition("/")[2]
    return path.resolve().name if path.is_dir() else path.stem


def _downloaded(folder: Path) -> Origin | None:
    """By the record in it, or in a folder above that names files in it."""
    place = folder.absolute()
    for root in (place, *place.parents[:_DEEPEST]):
        values = _values(root / DOWNLOAD)
        inside = "" if root == place else f"{place.relative_to(root).as_posix()}/"
        if any(str(name).startswith(inside) for name in values.get("files", ())):
            return origin_in(values)
    return None


def _cached(folder: Path) -> Origin | None:
    match = _SNAPSHOT.fullmatch(folder.absolute().as_posix())
    return match and Origin(repository=match["name"].replace("--", "/"), commit=match["commit"])


def origin_in(values: Any) -> Origin | None:
    """The two entries that name an origin, wherever they stand; None where one is missing."""
    found = values if isinstance(values, Mapping) else {}
    repository, commit = found.get("repository"), found.get("commit")
    if isinstance(repository, str) and isinstance(commit, str):
        return Origin(repository=repository, commit=commit)
    return None


def _values(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (CheckpointError, OSError):
        return {}
