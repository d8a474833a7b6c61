"""The body of an HTTP response as views of one buffer: read below the client's own layer where that is sound.

The client hands a body on in pieces of 64 KiB, each copied three times in Python: 0.8 GB/s at best, and no other
thread runs meanwhile. Connecting, proxies, certificates and headers stay the client's; only the bytes of a plain
body of known length are then received from its socket straight into a buffer.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

_BUFFER = 1 << 20
_TICK = 0.5  # seconds after which a silent connection is asked whether anybody still wants it


class HaltedError(Exception):
    """Whoever wanted the bytes does not want them any more."""


def body(response: Any, wanted: int, *, seconds: float, halted: Event) -> Iterator[memoryview]:
    """The first `wanted` bytes of a body, or fewer where it ends early; a view holds until the next is asked for.

    seconds: longest silence. Raises HaltedError, OSError (TimeoutError: silence) and the client's transport errors.
    """
    pieces = response.iter_raw()
    connection = _socket(response)
    left = wanted
    try:
        if connection is not None:
            # What came along with the headers lies in the client; one piece is all of it.
            left = min(left, int(response.headers["Content-Length"]))
            first = next(pieces, b"")[:left]
            left -= len(first)
            yield memoryview(first)
            if not left:
                next(pieces, None)  # the client sees the end, and keeps the connection
            yield from _received(connection, left, seconds, halted)
            return
        for piece in pieces:
            if halted.is_set():
                raise HaltedError
            yield memoryview(piece)[:left]
            left -= min(left, len(piece))
            if not left:
                return
    finally:
        pieces.close()


def _socket(response: Any) -> socket.socket | None:
    """The socket that the rest of the body comes from; None where the client must take it apart itself."""
    stream = response.extensions.get("network_stream")
    plain = (
        response.extensions.get("http_version") == b"HTTP/1.1"
        and response.headers.get("Content-Length", "").isdigit()
        and "Transfer-Encoding" not in response.headers
    )
    found = stream.get_extra_info("socket") if plain and stream is not None else None
    # TLS inside the TLS of a proxy is decrypted above the socket.
    within = type(stream).__name__ == "TLSinTLSStream"
    return found if type(found) in (socket.socket, ssl.SSLSocket) and not within else None


def _received(connection: socket.socket, left: int, seconds: float, halted: Event) -> Iterator[memoryview]:
    """What comes, a buffer at a time; no byte waits in it much longer than a tick."""
    buffer = memoryview(bytearray(min(_BUFFER, max(left, 1))))
    fill = _filler(connection)
    filled, shown = 0, time.monotonic()
    heard = shown
    while left > filled:
        if halted.is_set():
            raise HaltedError
        try:
            count = fill(buffer[filled : min(len(buffer), left)])
            ended, heard = not count, time.monotonic()
        except (TimeoutError, BlockingIOError) as error:
            count, ended = 0, False
            if time.monotonic() - heard > seconds:
                raise TimeoutError(f"no byte for {seconds:.0f} seconds") from error
        filled += count
        if ended or filled in (len(buffer), left) or time.monotonic() - shown > _TICK:
            yield buffer[:filled]
            left, filled, shown = left - filled, 0, time.monotonic()
        if ended:
            return


def _filler(connection: socket.socket) -> Callable[[memoryview], int]:
    """Fills a buffer from the connection, as far as bytes come within one tick."""
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(_TICK)
        return connection.recv_into
    # One call into the kernel for all of a buffer: with several threads each return from one waits its turn.
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(_TICK * 1e6)))
    return lambda buffer: connection.recv_into(buffer, flags=socket.MSG_WAITALL)
