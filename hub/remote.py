"""A file on the Hub, read by ranges.

The Hub is asked once for a signed address of the file at its store; all bytes then come from there. The address
stands for about an hour and is asked for anew when it is refused. The token goes to the Hub, never to the store.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from llama_convert.hub.errors import HubError, explained, redacted
from llama_convert.hub.repository import RemoteEntry, Snapshot

_SECONDS = 20.0  # longest wait for a connection, and for the next byte on one
_CHUNK = 1 << 20
# Attempts in a row that bring no byte before it is given up, and the waits between them, in seconds.
_ATTEMPTS, _FIRST_WAIT, _LONGEST_WAIT = 6, 0.5, 20.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_EXPIRED = (401, 403)


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


class RemoteFile:
    """One file of a repository, as a byte source; several threads may read it at once.

    sent: bytes that have come over the network so far.
    """

    def __init__(self, snapshot: Snapshot, entry: RemoteEntry) -> None:
        self.path = Path(snapshot.repository) / entry.path
        self.size = entry.size
        self.entry = entry
        self.sent = 0
        self._snapshot = snapshot
        self._lock = Lock()
        self._address: _Address | None = None

    def read(self, offset: int, nbytes: int) -> bytes:
        """Up to nbytes bytes from offset; fewer only at the end. Raises HubError."""
        return b"".join(self.chunks(offset, min(offset + nbytes, self.size)))

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from start to stop as they come; goes on where a connection broke off.

        Raises HubError: no access, or no byte in several attempts.
        """
        failures = 0
        refused: _Address | None = None
        while start < stop:
            address = self._current(refused)
            refused, began = None, start
            try:
                for chunk in self._attempt(address, start, stop):
                    start += len(chunk)
                    self.sent += len(chunk)
                    yield chunk
            except _ExpiredError:
                refused = address
                failure = _PassingError("the store refuses the address that the Hub gave")
            except _PassingError as error:
                failure = error
            else:
                failure = _PassingError("the connection was closed early")
            if start < stop:
                failures = 0 if start > began else failures + 1
                self._wait(failures, failure)

    def _wait(self, failures: int, failure: _PassingError) -> None:
        if failures >= _ATTEMPTS:
            raise HubError(
                f"{self.path}: {failures} attempts brought no byte; the last one: {failure}",
                advice="Check the network and run it again: what was fetched is kept.",
            )
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2**failures) if failures else 0.0
        time.sleep(max(failure.wait, longest * random.uniform(0.5, 1.0)))

    def _current(self, refused: _Address | None) -> _Address:
        """The address in use; another one than `refused`, which one thread of several asks for."""
        with self._lock:
            if self._address is None or self._address is refused:
                self._address = self._ask()
            return self._address

    def _ask(self) -> _Address:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        snapshot = self._snapshot
        url = hf_hub_url(snapshot.repository, self.entry.path, revision=snapshot.commit)
        with explained(str(snapshot.asked)):
            found = get_hf_file_metadata(url, timeout=_SECONDS, retry_on_errors=True)
        own = _origin(found.location) == _origin(url)
        return _Address(found.location, build_hf_headers() if own else {})

    def _attempt(self, address: _Address, start: int, stop: int) -> Iterator[bytes]:
        """What one request brings of the range, never more than it."""
        from huggingface_hub.utils import get_session, httpx  # type: ignore[attr-defined]

        headers = {**address.headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with get_session().stream("GET", address.url, headers=headers, timeout=_SECONDS) as response:
                skipped = self._check(response, start)
                yield from _cut(response.iter_raw(_CHUNK), skipped, skipped + stop - start)
        except httpx.TransportError as error:
            raise _PassingError(f"{type(error).__name__}: {redacted(str(error))}") from error

    def _check(self, response: Any, start: int) -> int:
        """How many bytes come before those that were asked for: none, or all where the server ignores ranges."""
        status = response.status_code
        if status in _EXPIRED:
            raise _ExpiredError
        if status in _PASSING:
            raise _PassingError(f"the server answered {status}", wait=_seconds(response.headers.get("Retry-After")))
        if status == 206 and _says(response.headers.get("Content-Range"), start, self.size):
            return 0
        if status == 200 and response.headers.get("Content-Length") in (None, str(self.size)):
            return start
        raise HubError(
            f"{self.path}: the store answered {status} with {response.headers.get('Content-Length')} bytes of "
            f"{response.headers.get('Content-Type')}, for a file of {self.size:,} bytes",
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


def _cut(chunks: Iterator[bytes], start: int, stop: int) -> Iterator[bytes]:
    """Bytes start to stop of a stream."""
    position = 0
    for chunk in chunks:
        piece = chunk[max(start - position, 0) : max(stop - position, 0)]
        position += len(chunk)
        if piece:
            yield piece
        if position >= stop:
            return
