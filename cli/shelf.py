"""`list`, `du`, `remove`: what is in the cache and what was made here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, confirm

from llama_convert.cli import options
from llama_convert.cli.output import Output, count, gigabytes, table
from llama_convert.convert.errors import UsageError, counted

if TYPE_CHECKING:
    from llama_convert.cli.entries import Disk, Entry, Shelf
    from llama_convert.cli.removable import Removable
    from llama_convert.convert.places import Contents

Folders = Annotated[
    list[Path] | None,
    Argument(metavar="[FOLDER]...", help="Folders to look through (default: this one).", show_default=False),
]
_DAY = 86400  # seconds
_NONE = "-"
_SHOWN = 12  # names of files


def list_models(folders: Folders = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the models in the Hugging Face cache and those that were made here."""
    from llama_convert.cli.entries import disks, looked_into, read_shelf

    output = Output(json=json, quiet=quiet)
    shelf = read_shelf(folders or [Path()])
    entries = [looked_into(entry) for entry in shelf.entries]
    if entries:
        output.result(_listing(entries))
    _tell(shelf, output)
    output.data(
        {
            "ok": True,
            "entries": [entry.as_json() for entry in entries],
            "disks": [_disk_json(disk) for disk in disks(entries)],
            "problems": list(shelf.problems),
        }
    )


def _tell(shelf: Shelf, output: Output) -> None:
    for problem in shelf.problems:
        output.say(f"warning: not looked at: {problem}")
    if not shelf.entries:
        output.say("Nothing is in the cache, and nothing was made in the folders looked through.")


def _listing(entries: list[Entry]) -> str:
    head = ("name", "format", "version", "parameters", "dtype", "bytes", "verified", "used", "source", "state")
    return table([head, *(row for entry in entries for row in _rows(entry))])


def _rows(entry: Entry) -> Iterator[tuple[str, ...]]:
    """One row for the entry and its first checkpoint, one for each other."""
    first, *others = entry.contents or (None,)
    yield (
        entry.name,
        *_cells(first),
        gigabytes(entry.nbytes),
        _verified(entry),
        _used(entry.last_used),
        _source(entry),
        _states(entry, first),
    )
    for contents in others:
        yield (f"  {contents.place}", *_cells(contents), "", "", "", "", entry.state_of(contents))


def _states(entry: Entry, first: Contents | None) -> str:
    where = f"{first.place}: " if first and first.place and first.problem else ""
    found = [entry.state, where + entry.state_of(first) if first else ""]
    return "; ".join(text for text in found if text)


def _cells(contents: Contents | None) -> tuple[str, str, str, str]:
    if contents is None or contents.parameters is None:
        return _NONE, _NONE, _NONE, _NONE
    return (
        contents.format or _NONE,
        contents.llama_version or _NONE,
        count(contents.parameters),
        contents.dtype or _NONE,
    )


def _verified(entry: Entry) -> str:
    if entry.verdict is None:
        return _NONE
    return entry.verdict.date[:10] if entry.verdict.ok else "FAILED"


def _used(seconds: float | None) -> str:
    """Days since then, as a person says it."""
    if seconds is None:
        return _NONE
    days = int((time.time() - seconds) // _DAY)
    return f"{counted(days, 'day')} ago" if days > 0 else "today"


def _source(entry: Entry) -> str:
    if entry.origin is None:
        return entry.source or _NONE
    refs = f" ({', '.join(entry.refs)})" if entry.refs else ""
    repository = "" if entry.kind == "cached" else entry.origin.repository
    return f"{repository}@{entry.origin.commit[:8]}{refs}"


def du(folders: Folders = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show how many bytes each model takes; what several share is counted once in the totals."""
    from llama_convert.cli.entries import disks, read_shelf, shared

    output = Output(json=json, quiet=quiet)
    shelf = read_shelf(folders or [Path()])
    entries = sorted(shelf.entries, key=lambda entry: -entry.nbytes)
    parts = [(entry, shared(entry, entries)) for entry in entries]
    found = disks(entries)
    if entries:
        rows = [(gigabytes(entry.nbytes), gigabytes(part) if part else _NONE, entry.name) for entry, part in parts]
        output.result(table([("bytes", "shared", "name"), *rows]))
        output.result("\n" + _disk_table(found))
    _tell(shelf, output)
    output.data(
        {
            "ok": True,
            "entries": [{"name": entry.name, "nbytes": entry.nbytes, "shared": part} for entry, part in parts],
            "disks": [_disk_json(disk) for disk in found],
            "problems": list(shelf.problems),
        }
    )


def _disk_table(found: tuple[Disk, ...]) -> str:
    rows = [(gigabytes(disk.nbytes), gigabytes(disk.free), gigabytes(disk.total), str(disk.mount)) for disk in found]
    return table([("models", "free", "of", "disk"), *rows])


def _disk_json(disk: Disk) -> dict[str, object]:
    return {"mount": str(disk.mount), "nbytes": disk.nbytes, "free": disk.free, "total": disk.total}


def remove(
    name: Annotated[str, Argument(metavar="NAME", help="As list prints it.", show_default=False)],
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove a model from the cache, or a folder that was made here; other files are never touched."""
    from llama_convert.cli.removable import find

    output = Output(json=json, quiet=quiet)
    found = find(name)
    _describe(found, output)
    removed = yes or _agreed(found)
    if removed:
        _carry_out(found, output)
    output.result(f"{name}: removed, {gigabytes(found.freed)} freed" if removed else "Nothing was removed.")
    output.data({"ok": True, "name": name, "removed": removed, "freed": found.freed if removed else 0})


def _describe(found: Removable, output: Output) -> None:
    output.say(f"{found.name}: {found.what}")
    more = [f"and {counted(len(found.files) - _SHOWN, 'other file')}"] if len(found.files) > _SHOWN else []
    for line in (*found.files[:_SHOWN], *more):
        output.say(f"  {line}")
    stays = found.nbytes - found.freed
    kept = f"; {gigabytes(stays)} stay, for others hold them too" if stays > 0 else ""
    output.say(f"{gigabytes(found.freed)} will be freed{kept}.")
    for note in found.notes:
        output.say(f"note: {note}")


def _agreed(found: Removable) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            f"{found.name}: nothing is removed without asking, and there is no terminal to ask at",
            advice=f"Run: llama-convert remove {found.name} --yes.",
        )
    return confirm("Remove it?", err=True)


def _carry_out(found: Removable, output: Output) -> None:
    try:
        found.carry_out()
    except BaseException:
        if found.rest and found.rest.exists():
            rest = os.path.relpath(found.rest)
            output.say(f"Not all is removed yet; the rest is in {rest}. Run: llama-convert remove {rest}")
        raise
