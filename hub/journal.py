"""What of a file is here already: the part beside its target, and the journal of segments that it holds.

Both lie beside the target and have names that end in `.incomplete`, as the Hub's client names its own, so that in its
cache they are shown and cleared as unfinished downloads by the cache's own commands. No client writes these names: up
to 1.17 it is `<etag>.incomplete`, later `<etag>.<8 hexadecimal digits>.incomplete`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from llama_convert.convert.errors import UsageError
from llama_convert.hub.segments import Segments

_TOOL = "llama-convert"
_ENDING = ".incomplete"
_VERSION = "1"
_POLL = 0.2  # seconds between two looks whether another process has finished
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The two files beside a target. own: of this process only, where the file system's locks do not hold."""

    part: Path
    journal: Path
    own: bool = False

    def remove(self) -> None:
        """Both are gone."""
        self.journal.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)


def names(target: Path, mark: str = "") -> Names:
    """Where a target's part and journal are. mark: a word of their names, for those of one process only."""
    stem = f"{target.name}.{_TOOL}{mark and '-' + mark}"
    part, journal = target.with_name(stem + _ENDING), target.with_name(f"{stem}.journal{_ENDING}")
    return Names(part=part, journal=journal, own=bool(mark))


def partial_files(target: Path) -> tuple[Path, ...]:
    """What unfinished fetches have left beside the target."""
    start = f"{target.name}.{_TOOL}"
    found = target.parent.iterdir() if target.parent.is_dir() else ()
    return tuple(sorted(path for path in found if path.name.startswith(start) and path.name.endswith(_ENDING)))


def arrived(target: Path, digest: str | None = None) -> int:
    """Bytes of the file that an earlier run left beside its target; 0 without any, or where the digest is another's."""
    found = names(target)
    try:
        text, size = found.journal.read_bytes(), found.part.stat().st_size
    except OSError:
        return 0
    read = _read(text)
    if read is None or (digest is not None and read.digest != digest):
        return 0
    kept = (index for index in read.checksums if read.segments.span(index)[1] <= size)
    return read.segments.length(kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A journal's contents. nbytes: of its sound lines."""

    digest: str
    segments: Segments
    checksums: dict[int, int]
    nbytes: int


def _line(*words: object) -> bytes:
    text = " ".join(map(str, words)).encode()
    return b"%s %08x\n" % (text, zlib.crc32(text))


def _read(data: bytes) -> _Read | None:
    """Up to the first line that is torn; None where that is the first."""
    found: _Read | None = None
    nbytes, checksums = 0, dict[int, int]()
    for line in data.splitlines(keepends=True):
        words = line.decode("ascii", "replace").split()[:-1]
        if not words or line != _line(*words):
            break
        if found is None:
            if words[:2] != [_TOOL, _VERSION] or len(words) != 5:
                break
            segments = Segments(size=int(words[3]), nbytes=int(words[4]))
            found = _Read(digest=words[2], segments=segments, checksums=checksums, nbytes=0)
        elif words[0] == "segment":
            checksums[int(words[1])] = int(words[2], 16)
        elif words[0] == "reset":
            checksums.clear()
        nbytes += len(line)
    return found and _Read(digest=found.digest, segments=found.segments, checksums=checksums, nbytes=nbytes)


class Journal:
    """The open, locked journal of one fetch. checksums: of the segments that the part holds, by index."""

    def __init__(self, descriptor: int, names: Names, digest: str, segments: Segments) -> None:
        self.names = names
        self.segments = segments
        self.checksums: dict[int, int] = {}
        self._descriptor = descriptor
        self._lock = Lock()
        self._run = secrets.token_hex(8)
        self._length = self._continued(digest)
        self._append("run", self._run)

    def _continued(self, digest: str) -> int:
        """Take over what an earlier run wrote of the same file; otherwise begin anew. The length of what is kept."""
        data = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        found = _read(data)
        size = self.names.part.stat().st_size if self.names.part.exists() else 0
        if found is None or (found.digest, found.segments) != (digest, self.segments):
            # A new file, never the old one emptied: who else has that open keeps his own.
            self.names.part.unlink(missing_ok=True)
            os.ftruncate(self._descriptor, 0)
            self._length = 0
            self._append(_TOOL, _VERSION, digest, self.segments.size, self.segments.nbytes)
            return self._length
        self.checksums = {
            index: value for index, value in found.checksums.items() if self.segments.span(index)[1] <= size
        }
        os.ftruncate(self._descriptor, found.nbytes)
        return found.nbytes

    def arrived(self, index: int, value: int) -> None:
        """The segment is in the part, all of it; value: its checksum."""
        with self._lock:
            self.checksums[index] = value
            self._append("segment", index, f"{value:x}")

    def reset(self) -> dict[int, int]:
        """Nothing of what is there counts any more. The checksums up to now."""
        with self._lock:
            before, self.checksums = self.checksums, {}
            self._append("reset")
            return before

    def is_ours(self) -> bool:
        """Whether the two files are still there, and no other run has begun with them since.

        Locks let none begin; on some network file systems they hold on one machine only.
        """
        now = os.fstat(self._descriptor)
        try:
            if not os.path.samestat(now, self.names.journal.stat()):
                return False
        except FileNotFoundError:
            return False
        if now.st_size == self._length:
            return True
        with self._lock:
            _, own, since = os.pread(self._descriptor, now.st_size, 0).partition(_line("run", self._run))
        return bool(own) and not any(line.startswith(b"run ") for line in since.splitlines())

    def check_ours(self) -> None:
        """UsageError where this run must not write any more."""
        if not self.is_ours():
            raise UsageError(
                f"{self.names.part}: removed or taken over by another process while it was being fetched",
                advice="Let one finish, then run it again: locks may not hold between machines on this file system.",
            )

    def _append(self, *words: object) -> None:
        line = _line(*words)
        os.write(self._descriptor, line)
        self._length += len(line)


@contextmanager
def opened(target: Path, digest: str, segments: Segments, on_note: Callable[[str], None]) -> Iterator[Journal]:
    """The target's journal, for this process alone; waits for another that has it.

    What is worth keeping is still there afterwards, and nothing else.
    """
    descriptor, found = _locked(target, on_note)
    try:
        journal = Journal(descriptor, found, digest, segments)
        try:
            yield journal
        finally:
            _tidy(journal)
    finally:
        os.close(descriptor)


def _tidy(journal: Journal) -> None:
    if not journal.is_ours():
        return
    end = max((journal.segments.span(index)[1] for index in journal.checksums), default=0)
    if not end or journal.names.own:
        journal.names.remove()
        return
    with suppress(FileNotFoundError):  # published
        if journal.names.part.stat().st_size > end:
            os.truncate(journal.names.part, end)  # room that was set aside goes back to the disk


def _locked(target: Path, on_note: Callable[[str], None]) -> tuple[int, Names]:
    usual = names(target)
    told = False
    while True:
        descriptor = _open(usual.journal)
        if not _lock(descriptor):
            os.close(descriptor)
            if not told:
                on_note(f"{target.name}: another process is fetching it; waiting for it")
            told = True
            time.sleep(_POLL)
            continue
        if not _holds(usual.journal):
            os.close(descriptor)
            return _own(target, on_note)
        # The one that was waited for removes it when its work is done.
        if usual.journal.exists() and os.path.samestat(os.fstat(descriptor), usual.journal.stat()):
            return descriptor, usual
        os.close(descriptor)


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o666)


def _lock(descriptor: int) -> bool:
    """Whether nobody else has it. A file system without locks gives it to everybody."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _holds(path: Path) -> bool:
    """Whether the lock that this process has keeps others out."""
    descriptor = _open(path)
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _own(target: Path, on_note: Callable[[str], None]) -> tuple[int, Names]:
    """Files that no other process knows of: they cost the resumption, never a wrong file."""
    on_note(f"{target.parent}: this file system has no working locks; an interrupted download begins anew")
    with suppress(FileNotFoundError):
        usual = names(target).journal
        if not usual.stat().st_size:
            usual.unlink()
    found = names(target, secrets.token_hex(4))
    return _open(found.journal, os.O_EXCL), found
