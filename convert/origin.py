"""Where weights first came from: a repository at one commit, as the files beside them say."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """repository: `organisation/name` on the Hub. commit: 40 hexadecimal digits."""

    repository: str
    commit: str


def known_origin(folder: Path) -> Origin | None:
    """What the folder's record of a download says, or its conversion.json; None where neither does.

    A conversion of a converted folder hands on what that one came from.
    """
    return origin_in(_values(folder / DOWNLOAD)) or origin_in(_values(folder / NAME).get("source"))


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
