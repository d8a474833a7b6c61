"""One file of a repository brought to this disk: resumed, checked against its digest, published whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llama_convert.convert.digests import GIT_SHA1, SHA256, Extent, all_of, read_digests
from llama_convert.convert.errors import CheckpointError, SpaceError
from llama_convert.hub.journal import Journal, arrived, opened, partial_files
from llama_convert.hub.remote import RemoteFile
from llama_convert.hub.segments import SEGMENT, Segments
from llama_convert.hub.transfer import Settings, Source, Transfer
from llama_convert.hub.xet import XetFile, offered

__all__ = ["Fetched", "arrived", "fetch", "partial_files"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a file system says that cannot set room aside; the space is then used as bytes come.
_CANNOT_SET_ASIDE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file that has come. reused: bytes of an earlier run that were kept, or all where it was here already.

    over_xet: whether Xet brought it to the end. refetched: whether the first bytes were wrong.
    """

    path: Path
    nbytes: int
    reused: int
    over_xet: bool
    refetched: bool


def fetch(
    file: RemoteFile,
    target: Path,
    *,
    on_bytes: Callable[[int], None] = lambda nbytes: None,
    on_note: Callable[[str], None] = lambda text: None,
    xet: bool = True,
    connections: int = 4,
    stalled: float = 30.0,
) -> Fetched:
    """Bring the file to `target`, which appears only when all of it is on disk and its digest held.

    on_bytes: told of bytes as they come over the network, by the calling thread. on_note: told what a user may want
    to know. xet: use it where the Hub offers it; given up after `stalled` seconds without a byte.
    Memory: some MB for each connection. Kept on failure: every whole segment, for the next run.
    Raises HubError, SpaceError; CheckpointError: twice fetched, and its digest is not the one the Hub tells.
    """
    settings = Settings(connections=connections, stalled=stalled, on_bytes=on_bytes, on_note=on_note)
    if not partial_files(target) and _is_here(file, target):
        return _unchanged(file, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened(target, file.entry.digest, Segments(size=file.size, nbytes=SEGMENT), on_note) as journal:
        if _is_here(file, target):  # another process has brought it, or was killed while it cleared up
            journal.reset()
            return _unchanged(file, target)
        with _space(target):
            return _fetched(file, target, journal, settings, xet)


def _fetched(file: RemoteFile, target: Path, journal: Journal, settings: Settings, xet: bool) -> Fetched:
    sources: list[Source] = [XetFile(file), file] if xet and offered(file) else [file]
    descriptor = os.open(journal.names.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _set_aside(descriptor, file.size)
        kept = journal.segments.length(journal.checksums)
        transfer = Transfer(sources, descriptor, journal, _algorithm(file), settings)
        refetched = transfer.run() != file.entry.digest
        if refetched:
            settings.on_note(f"{file.path}: its digest is not the one that the Hub tells; fetching it once more")
            _fetch_again(file, descriptor, journal, settings)
        _publish(descriptor, journal, target)
    finally:
        os.close(descriptor)
    return Fetched(
        path=target,
        nbytes=file.size,
        reused=0 if refetched else kept - transfer.progress.lost,
        over_xet=isinstance(transfer.source, XetFile) and transfer.progress.fetched > 0 and not refetched,
        refetched=refetched,
    )


def _fetch_again(file: RemoteFile, descriptor: int, journal: Journal, settings: Settings) -> None:
    """All of it, by plain ranges. Segments that came twice alike are kept for the next run, where others did not."""
    before = journal.reset()
    found = Transfer([file], descriptor, journal, _algorithm(file), settings).run()
    if found == file.entry.digest:
        return
    after = journal.reset()
    alike = {index: value for index, value in after.items() if before.get(index) == value}
    wrong = f"{file.path}: {_algorithm(file)} {found}, wanted {file.entry.digest}, after fetching it twice"
    if len(alike) == len(after):
        raise CheckpointError(
            wrong,
            advice="The same bytes came both times: the store's copy is damaged, or something between changes it.",
        )
    for index, value in alike.items():
        journal.arrived(index, value)
    raise CheckpointError(
        wrong,
        advice=f"{len(after) - len(alike):,} of {len(after):,} parts came differently each time: check network and "
        "memory, and run it again; only those are fetched then.",
    )


def _algorithm(file: RemoteFile) -> str:
    return SHA256 if file.entry.sha256 else GIT_SHA1


def _is_here(file: RemoteFile, target: Path) -> bool:
    if not target.is_file() or target.stat().st_size != file.size:
        return False
    extent = Extent(_algorithm(file), all_of(target))
    return read_digests(target, [extent])[extent] == file.entry.digest


def _unchanged(file: RemoteFile, target: Path) -> Fetched:
    return Fetched(path=target, nbytes=file.size, reused=file.size, over_xet=False, refetched=False)


def _set_aside(descriptor: int, size: int) -> None:
    """Room for the whole file, so that a lack of it shows before the first byte."""
    before = os.fstat(descriptor).st_size
    try:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _CANNOT_SET_ASIDE:
            os.ftruncate(descriptor, min(before, size))
            raise
    os.ftruncate(descriptor, size)


def _publish(descriptor: int, journal: Journal, target: Path) -> None:
    os.fsync(descriptor)
    journal.check_ours()
    os.replace(journal.names.part, target)
    journal.names.journal.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _space(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(target.parent).free
        raise SpaceError(
            f"{target}: the disk is full ({free:,} bytes free)",
            advice="Free some space and run it again: what was fetched is kept.",
        ) from error
