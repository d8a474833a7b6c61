"""What often lies under the name of a checkpoint's file and is something else: pages, error messages, pointers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_convert.convert.containers.slices import ByteSource
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError, counted

START = 512  # bytes that tell
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LARGEST = 1 << 20  # bytes; a page that a download was answered with has some 50 kB
_SUFFIXES = (".pth", ".pt", ".safetensors", ".gguf", ".bin", ".json", ".chk", ".model", ".yaml")


class LookalikeError(CheckpointError):
    """A file holds something else than its name says."""


@dataclass(frozen=True, slots=True)
class Lookalike:
    """what: in words. advice: how to come by the real file."""

    what: str
    advice: str


_PAGE = Lookalike(
    "an HTML page",
    "The download was answered by a web page: its link had expired, or you were not logged in. Fetch the file again.",
)
_MESSAGE = Lookalike("an XML error message", "The download link had expired; get a new one and fetch the file again.")
_POINTER = Lookalike("a Git LFS pointer", "Fetch the real file: git lfs pull")
_LOOKALIKES = {
    b"version https://git-lfs": _POINTER,
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
    b"<?xml": _MESSAGE,
    b"<error>": _MESSAGE,
}


def lookalike(start: bytes) -> Lookalike | None:
    """What a file that starts like this is; None where it may be what its name says."""
    first = start.removeprefix(_BYTE_ORDER_MARK).lstrip().lower()
    return next((found for prefix, found in _LOOKALIKES.items() if first.startswith(prefix)), None)


def refuse_lookalike(path: Path, start: bytes, wanted: str) -> None:
    """LookalikeError where these first bytes of the file show that it is not what is wanted."""
    if found := lookalike(start):
        raise LookalikeError(f"{path}: this is {found.what}, not {wanted}", advice=found.advice)


def refuse_lookalikes(source: ByteSource, start: bytes) -> None:
    """CheckpointError where these first bytes of the file show that it holds no weights."""
    if not start:
        raise CheckpointError(f"{source.path}: empty file", advice="Fetch the file again.")
    refuse_lookalike(source.path, start, "weights")


def all_lookalikes(place: Path, error: CheckpointError | None = None) -> CheckpointError | None:
    """The error, which one such file caused, as one about all of them in the folder; None without either.

    Cost: the first bytes of the folder's small files.
    """
    found = dict(_found(place))
    if len(found) < 2 and (error or not found):
        return error
    known = tuple(f"{path}: this is {what.what}" for path, what in found.items())
    lines = [f"{path.name}: {what.what}, {byte_source(path).size:,} bytes" for path, what in found.items()]
    others = [problem for problem in (error.problems if error else ()) if not problem.startswith(known)]
    return LookalikeError(
        f"{place}: {counted(len(found), 'file')} of other contents than the name says",
        problems=[*lines, *others],
        advice=" ".join(dict.fromkeys(what.advice for what in found.values())),
    )


def _found(place: Path) -> Iterator[tuple[Path, Lookalike]]:
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        source = byte_source(path)
        if path.suffix in _SUFFIXES and path.is_file() and source.size <= _LARGEST:
            what = lookalike(source.read(0, START))
            if what is not None:
                yield path, what
