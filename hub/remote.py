"""A file on the Hub, read by ranges.

The Hub is asked once for a signed address of the file at its store; all bytes then come from there. The address
stands for about an hour and is asked for anew when it is refused. The token goes to the Hub, never to the store.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

from llama_convert.hub.errors import HubError, explained, redacted
from llama_convert.hub.repository import RemoteEntry, Snapshot
from llama_convert.hub.wire import HaltedError, body

_SECONDS = 20.0  # longest wait for a connection, and for the next byte on one
_LONGEST_ASKED = 120.0  # seconds that a server may tell us to wait
# Attempts in a row that bring no byte before it is given up, and the waits between them, in seconds.
_ATTEMPTS, _FIRST_WAIT, _LONGEST_WAIT = 6, 0.5, 20.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_EXPIRED = (401, 403)
_PAGES = (".html", ".htm")


@dataclass(frozen=True, slots=True)
class _Address:
    """Where the bytes are. headers: with the token where that is the Hub itself."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


class _PassingError(Exception):
    """A fault that another attempt may not have. wait: seconds the server asks for."""

    def __init__(self, what: str, *, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class _ExpiredError(Exception):
    """The store no longer takes the address."""


class RangesIgnoredError(Exception):
    """The server sends the whole file, whatever range it is asked for."""


class RemoteFile:
    """One file of a repository, as a byte source; several threads may read it at once.

    sent: bytes that have come over the network so far.
    """

    def __init__(self, snapshot: Snapshot, entry: RemoteEntry) -> None:
        self.path = Path(snapshot.repository) / entry.path
        self.size = entry.size
        self.entry = entry
        self.sent = 0
        self.snapshot = snapshot
        self._lock, self._counting = Lock(), Lock()
        self._address: _Address | None = None

    def read(self, offset: int, nbytes: int) -> bytes:
        """Up to nbytes bytes from offset; fewer only at the end. Raises HubError."""
        return b"".join(self.chunks(offset, min(offset + nbytes, self.size)))

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from start to stop as they come; goes on where a connection broke off.

        Raises HubError: no access, or no byte in several attempts.
        """
        return map(bytes, self.pieces(start, stop))

    def pieces(
        self, start: int, stop: int, *, halted: Event | None = None, ranges_only: bool = False
    ) -> Generator[memoryview, None, None]:
        """The same without a copy: a view holds until the next one is asked for.

        halted: set by whoever no longer wants them; HaltedError is raised then, within a second where bytes flow.
        ranges_only: raise RangesIgnoredError rather than fetch what lies before the range.
        """
        halted = halted or Event()
        failures = 0
        refused: _Address | None = None
        while start < stop:
            address = self._current(refused)
            refused, began = None, start
            try:
                for piece in self._attempt(address, start, stop, halted, ranges_only):
                    start += len(piece)
                    with self._counting:
                        self.sent += len(piece)
                    yield piece
            except _ExpiredError:
                refused = address
                failure = _PassingError("the store refuses the address that the Hub gave")
            except _PassingError as error:
                failure = error
            else:
                failure = _PassingError("the connection was closed early")
            if start < stop:
                failures = 0 if start > began else failures + 1
                self._wait(failures, failure, halted)

    def _wait(self, failures: int, failure: _PassingError, halted: Event) -> None:
        if failures >= _ATTEMPTS:
            raise HubError(
                f"{self.path}: {failures} attempts brought no byte; the last one: {failure}",
                advice="Check the network and run it again: what was fetched is kept.",
            )
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2**failures) if failures else 0.0
        if halted.wait(max(min(failure.wait, _LONGEST_ASKED), longest * random.uniform(0.5, 1.0))):
            raise HaltedError

    def _current(self, refused: _Address | None) -> _Address:
        """The address in use; another one than `refused`, which one thread of several asks for."""
        with self._lock:
            if self._address is None or self._address is refused:
                self._address = self._ask()
            return self._address

    def _ask(self) -> _Address:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        snapshot = self.snapshot
        url = hf_hub_url(snapshot.repository, self.entry.path, revision=snapshot.commit)
        with explained(str(snapshot.asked)):
            found = get_hf_file_metadata(url, timeout=_SECONDS, retry_on_errors=True)
        if found.size not in (None, self.size):
            raise HubError(
                f"{self.path}: the Hub now says {found.size:,} bytes, its list of files said {self.size:,}",
                advice="Run it again: the list is read anew.",
            )
        own = _origin(found.location) == _origin(url)
        return _Address(found.location, build_hf_headers() if own else {})

    def _attempt(
        self, address: _Address, start: int, stop: int, halted: Event, ranges_only: bool
    ) -> Iterator[memoryview]:
        """What one request brings of the range, never more than it."""
        from huggingface_hub.utils import get_session, httpx  # type: ignore[attr-defined]

        if halted.is_set():
            raise HaltedError
        headers = {**address.headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with get_session().stream("GET", address.url, headers=headers, timeout=_SECONDS) as response:
                skipped = self._check(response, start)
                if ranges_only and response.status_code == 200 and stop - start < self.size:
                    raise RangesIgnoredError
                pieces = body(response, skipped + stop - start, seconds=_SECONDS, halted=halted)
                yield from _behind(pieces, skipped)
        except (httpx.TransportError, OSError) as error:
            raise _PassingError(f"{type(error).__name__}: {redacted(str(error))}") from error

    def _check(self, response: Any, start: int) -> int:
        """How many bytes come before those that were asked for: none, or all where the server ignores ranges."""
        status, headers = response.status_code, response.headers
        if status in _EXPIRED:
            raise _ExpiredError
        if status in _PASSING:
            raise _PassingError(f"the server answered {status}", wait=_seconds(headers.get("Retry-After")))
        page = headers.get("Content-Type", "").startswith("text/html") and self.path.suffix not in _PAGES
        if status == 206 and _says(headers.get("Content-Range"), start, self.size) and not page:
            return 0
        if status == 200 and headers.get("Content-Length") in (None, str(self.size)) and not page:
            return start
        raise HubError(
            f"{self.path}: the store answered {status} with {headers.get('Content-Length')} bytes of "
            f"{headers.get('Content-Type')} ({headers.get('Content-Range', 'no range')}), "
            f"for a file of {self.size:,} bytes",
            advice="Is a proxy or a login page between this machine and the Hub? Run: llama-convert doctor",
        )


def _origin(url: str) -> tuple[str, str]:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _says(content_range: str | None, start: int, size: int) -> bool:
    """Whether `bytes 0-9/100` is of this start and size; a size that is not told is written `*`."""
    text = content_range or ""
    return text.startswith(f"bytes {start}-") and text.rpartition("/")[2] in (str(size), "*")


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdigit() else 0.0


def _behind(pieces: Iterator[memoryview], start: int) -> Iterator[memoryview]:
    """The pieces without their first `start` bytes."""
    for piece in pieces:
        if start < len(piece):
            yield piece[start:]
        start = max(start - len(piece), 0)
