"""Made folders removed: only files that their records name, and so that an interruption leaves nothing half there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_convert.convert.claims import NAME
from llama_convert.convert.disk import is_locked
from llama_convert.convert.errors import UsageError, counted
from llama_convert.convert.made import Leftover, Made, is_part, leftover, read_made
from llama_convert.convert.origin import CLIENT, DOWNLOAD
from llama_convert.convert.publish import exclusive, lock_file, sync_path
from llama_convert.convert.readers import unread

_RECORDS = (Path(NAME), DOWNLOAD)
# Beside a record of a download: what it, and the Hub's client, note about the files; parts of files yet to come.
_KEPT = (DOWNLOAD.parent, CLIENT)
_SHOWN = 5  # names in one message


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What removing a made folder would do. names: files that go. unknown: files that no record names.

    changed: files that have another size than recorded: somebody has worked on them.
    """

    folder: Path
    names: tuple[Path, ...]
    unknown: tuple[str, ...]
    changed: tuple[str, ...]


def plan_removal(folder: Path) -> Removal:
    """What is to go of the folder; nothing is touched.

    Raises UsageError: it has no readable record, holds files that no record names, or a run writes or reads it.
    """
    made = read_made(folder)
    if is_locked(lock_file(folder)) or (made and made.is_filled()):
        raise UsageError(f"{folder}: a run is writing it now", advice="Wait until it is over.")
    if made is None or made.problem:
        raise UsageError(
            f"{folder}: {made.problem if made else 'no conversion.json, and no record of a download'}: "
            "what in it was made here cannot be told",
            advice="Delete it yourself if it is not needed.",
        )
    found = _planned(made)
    if found.unknown:
        raise _holds_others(found)
    with unread(folder, _folders(folder)):
        return found


def _planned(made: Made) -> Removal:
    names = tuple(path for path in made.files if _is_known(path.relative_to(made.folder), made))
    unknown = tuple(str(path.relative_to(made.folder)) for path in made.files if path not in set(names))
    return Removal(folder=made.folder, names=names, unknown=unknown, changed=made.differing()[1])


def _is_known(name: Path, made: Made) -> bool:
    if name.as_posix() in made.recorded or name in _RECORDS:
        return True
    kept = _KEPT if (made.folder / DOWNLOAD).is_file() else ()
    return any(folder in name.parents for folder in kept) or (bool(kept) and is_part(name))


def _holds_others(found: Removal) -> UsageError:
    more = len(found.unknown) - _SHOWN
    return UsageError(
        f"{found.folder}: holds {counted(len(found.unknown), 'file')} that no record names; nothing is removed",
        problems=[*found.unknown[:_SHOWN], *([f"and {counted(more, 'other')}"] if more > 0 else [])],
        advice="Move them elsewhere and run it again, or delete the folder yourself.",
    )


def remove_made(folder: Path) -> None:
    """Remove a made folder. It is set aside in one step, then its files go one by one, its records last.

    What an interruption leaves is `.NAME.removed` beside it, and can be removed as well.
    Raises what `plan_removal` raises; then nothing is touched.
    """
    place = folder.resolve()
    aside = removed_folder(place)
    plan_removal(folder)
    with exclusive(place), unread(folder, _folders(place)):
        if leftover(aside) is not None:
            _delete(aside)
        place.rename(aside)
        sync_path(place.parent)
        _delete(aside)


def removed_folder(folder: Path) -> Path:
    """Where a folder lies while it is removed."""
    return folder.parent / f".{folder.name}.removed"


def check_leftover(left: Leftover) -> None:
    """Raises UsageError where a run works there, or it is the only copy of a model."""
    target = left.target
    if left.in_use:
        raise UsageError(f"{left.folder}: a run is writing it now", advice="Wait until it is over.")
    if left.kind == "replaced" and not target.exists():
        raise UsageError(
            f"{left.folder}: is all there is of {target}: a run was killed while it replaced that folder",
            advice=f"Rename it to {target.name}; then it can be used, or removed.",
        )


def remove_leftover(left: Leftover) -> None:
    """Remove what a killed run left. Raises what `check_leftover` raises."""
    check_leftover(left)
    try:
        with exclusive(left.target):
            if left.kind == "removed":
                _delete(left.folder)
            else:
                shutil.rmtree(left.folder)
    except BaseException:
        if left.kind != "removed" and left.folder.exists():
            lock_file(left.target).touch()  # by it the rest is known as ours
        raise


def _delete(aside: Path) -> None:
    """Files first, records last, then the empty folders. What has come since the check is kept, in its folder."""
    made = read_made(aside) if aside.exists() else None
    names = _planned(made).names if made else ()
    for name in sorted(names, key=lambda path: path.relative_to(aside) in _RECORDS):
        name.unlink()
    for folder in _folders(aside):
        if not any(folder.iterdir()):
            folder.rmdir()
    if aside.exists():
        raise UsageError(
            f"{aside}: not empty: files came into the folder while it was removed",
            advice="They are all that is left in it; move them, and delete it yourself.",
        )


def _folders(folder: Path) -> Iterator[Path]:
    """The folder and those in it, the deepest first."""
    inner = [path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()] if folder.exists() else []
    yield from sorted(inner, key=lambda path: len(path.parts), reverse=True)
    if folder.exists():
        yield folder
