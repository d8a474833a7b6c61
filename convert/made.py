"""Folders that were written or fetched here, found by the records in them: there is no other list of them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_convert.convert.claims import NAME
from llama_convert.convert.disk import files_below, is_locked
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.json_files import read_object
from llama_convert.convert.origin import DOWNLOAD, Origin, known_origin
from llama_convert.convert.places import Contents
from llama_convert.convert.publish import lock_file

_DEEPEST = 4  # folders below a given one, such as models/organisation/name
_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<kind>partial|replaced|removed)")
_PART = re.compile(r".+\.llama-convert(-\w+)?(\.journal)?\.incomplete")
_SAID = ("format", "llama_version", "parameters", "dtype")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found of a folder, and when (ISO 8601)."""

    ok: bool
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A folder with a record of ours.

    recorded: sizes of its files by their name in it, as the records have them. to_come: names of files that a
    download has not brought yet; what lies under them is not ours. source: name of the folder that it
    was converted from. contents: as the record says; None where it does not and the folder must be opened.
    problem: why its record cannot be read.
    """

    folder: Path
    recorded: Mapping[str, int] = field(default_factory=dict)
    to_come: tuple[str, ...] = ()
    origin: Origin | None = None
    source: str | None = None
    contents: Contents | None = None
    verdict: Verdict | None = None
    problem: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file in it, known or not."""
        return tuple(files_below(self.folder))

    def differing(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Files that are missing, and recorded ones that have another size than was recorded."""
        there = {name: path.stat().st_size for name in self.recorded if (path := self.folder / name).is_file()}
        changed = tuple(name for name, size in there.items() if size != self.recorded[name])
        return (*(name for name in self.recorded if name not in there), *self.to_come), changed

    def is_filled(self) -> bool:
        """Whether a download into it is running: by the locks of the Hub's client, and on parts of files."""
        return any(is_locked(path) for path in self.files if path.suffix == ".lock" or is_part(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """What a run left that was killed. target: the folder that it was about.

    kind: `partial`, not yet whole; `replaced`, the old folder while a new one took its place; `removed`, what was
    being removed. files: all that was left. in_use: a run that is not over works on the target.
    """

    kind: str
    folder: Path
    target: Path
    files: tuple[Path, ...]
    in_use: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """What lies below some folders. problems: what could not be looked at, one sentence each."""

    made: tuple[Made, ...]
    leftovers: tuple[Leftover, ...]
    problems: tuple[str, ...]


def find_made(folders: Sequence[Path], without: Collection[Path] = ()) -> Shelf:
    """What is below these folders, four deep; hidden folders are passed over and links are not followed.

    without: resolved folders that are not looked into. Raises UsageError for a folder that is not there.
    """
    absent = [str(folder) for folder in folders if not folder.is_dir()]
    if absent:
        raise UsageError(f"{', '.join(absent)}: no such folder", advice="Give the folder that your models are in.")
    found: dict[Path, Made | Leftover | str] = {}
    for folder in folders:
        found |= {_path(item, folder).resolve(): item for item in _walk(folder, set(without), _DEEPEST)}
    everything = found.values()
    return Shelf(
        made=tuple(item for item in everything if isinstance(item, Made)),
        leftovers=tuple(item for item in everything if isinstance(item, Leftover)),
        problems=tuple(item for item in everything if isinstance(item, str)),
    )


def _path(item: Made | Leftover | str, folder: Path) -> Path:
    return folder / item if isinstance(item, str) else item.folder


def _walk(folder: Path, without: Collection[Path], depth: int) -> Iterator[Made | Leftover | str]:
    try:
        found = look_at(folder)
        with os.scandir(folder) as entries:
            inner = sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError as error:
        yield f"{error.filename or folder}: {error.strerror}"
        return
    if found is not None:
        yield found
        return
    for path in inner:
        if path.name.startswith("."):
            left = look_at(path) if _LEFT.fullmatch(path.name) else None
            yield from () if left is None else (left,)
        elif depth and path.resolve() not in without:
            yield from _walk(path, without, depth - 1)


def look_at(folder: Path) -> Made | Leftover | None:
    """The folder as what a killed run left, or as one with a record of ours; None where it is neither."""
    return leftover(folder) if _LEFT.fullmatch(folder.name) else read_made(folder)


def leftover(folder: Path) -> Leftover | None:
    """The folder as something that a killed run left; None for any other.

    The lock that a killed run leaves beside it, or a record inside, tells it from a stranger of such a name.
    """
    match = _LEFT.fullmatch(folder.name)
    if match is None or not folder.is_dir():
        return None
    target = folder.resolve().parent / match["name"]
    marked = lock_file(target).exists()
    if match["kind"] == "removed":
        marked = read_made(folder) is not None or not any(files_below(folder))
    if not marked:
        return None
    files = tuple(files_below(folder))
    in_use = is_locked(lock_file(target))
    return Leftover(kind=match["kind"], folder=folder, target=target, files=files, in_use=in_use)


def is_part(path: Path) -> bool:
    """Whether it is a part of a file that was being fetched, or notes about one."""
    return _PART.fullmatch(path.name) is not None


def read_made(folder: Path) -> Made | None:
    """The folder by its records; None where it has none of ours."""
    certificate, download = folder / NAME, folder / DOWNLOAD
    try:
        converted = read_object(certificate) if certificate.is_file() else {}
        fetched = read_object(download) if download.is_file() else {}
        if not fetched and not _is_ours(converted):
            return None
        return _made(folder, converted if _is_ours(converted) else {}, fetched)
    except CheckpointError as error:
        return Made(folder=folder, problem=error.summary.removeprefix(f"{folder}/"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Made(folder=folder, problem=f"its record is damaged: {error!r:.80}")
    except OSError:
        return None  # a folder that cannot be read is told of where it is walked through


def _is_ours(values: Mapping[str, Any]) -> bool:
    tool = values.get("tool")
    return isinstance(tool, dict) and "llama-convert" in tool


def _made(folder: Path, converted: Mapping[str, Any], fetched: Mapping[str, Any]) -> Made:
    target, source = converted.get("target", {}), converted.get("source", {})
    earlier = {name: entry for name, entry in fetched.get("earlier", {}).items() if (folder / name).is_file()}
    recorded = {**earlier, **fetched.get("files", {}), **target.get("files", {})}
    said = {name: target.get(name) for name in _SAID}
    verified = converted.get("verified")
    return Made(
        folder=folder,
        recorded={name: int(entry["size"]) for name, entry in recorded.items()},
        to_come=tuple(fetched.get("to_come", ())),
        origin=known_origin(folder),
        source=source.get("folder"),
        contents=Contents(place="", **said) if None not in said.values() else None,
        verdict=Verdict(bool(verified["ok"]), str(verified["date"])) if verified else None,
    )
