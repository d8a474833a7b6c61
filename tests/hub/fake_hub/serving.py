"""A threaded HTTP server that sends answers, and what goes wrong with them, over a socket."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from tests.hub.fake_hub.access import Renamed
from tests.hub.fake_hub.answers import Answer, Call, Part, Refusal
from tests.hub.fake_hub.records import Record

if TYPE_CHECKING:
    from tests.hub.fake_hub.hub import FakeHub

_PIECE = 1 << 20
_KEPT_IN_MEMORY = 1 << 20  # a larger request body lies in a file


class Listener(ThreadingHTTPServer):
    """One of the two hosts."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: FakeHub, name: str, answer: Callable[[Call], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.name, self.answer = hub, name, answer
        self.connections: set[socket.socket] = set()

    def stop(self) -> None:
        """Listen no more, and hang up on everyone: a connection kept alive would be answered on."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what the tests are about; anything else is shown."""
        import sys

        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Reads requests, lets the listener answer them, sends the answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener
    connection: socket.socket

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        record = self.server.hub.log.start(
            Record(method=self.command, host=self.server.name, path=self.path, headers=headers)
        )
        body = self._body(record)
        call = Call(
            method=self.command, path=url.path, query=dict(parse_qsl(url.query)), headers=headers, body=body
        )  # fmt: skip
        try:
            answer = self.server.answer(call)
        except Refusal as refused:
            answer = refused.answer
        except Renamed as renamed:
            answer = renamed.answer(url.path, url.query)
        self._send(answer, record)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def _body(self, record: Record) -> bytes | Path:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = iter(self._chunk, b"")
        else:
            pieces = self._pieces(int(self.headers.get("Content-Length") or 0))
        kept = bytearray()
        for piece in pieces:
            kept += piece
            record.received_bytes += len(piece)
            if len(kept) > _KEPT_IN_MEMORY:
                return self._to_file(bytes(kept), pieces, record)
        return bytes(kept)

    def _to_file(self, start: bytes, pieces: Any, record: Record) -> Path:
        with tempfile.NamedTemporaryFile(dir=self.server.hub.folder, delete=False) as file:
            file.write(start)
            for piece in pieces:
                file.write(piece)
                record.received_bytes += len(piece)
        return Path(file.name)

    def _pieces(self, size: int) -> Any:
        while size > 0:
            piece = self.rfile.read(min(size, _PIECE))
            if not piece:
                raise ConnectionResetError
            size -= len(piece)
            yield piece

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        piece = self.rfile.read(size)
        self.rfile.readline()
        return piece

    def _send(self, answer: Answer, record: Record) -> None:
        part = answer.body if isinstance(answer.body, Part) else None
        size = part.stop - part.start if part else len(answer.body)  # type: ignore[arg-type]
        record.status, record.range = answer.status, answer.range
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size + (part.faults.length_error if part else 0)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if part is None:
            self.wfile.write(answer.body)
            record.sent_bytes += size
            return
        sender = Sender(self.connection, self.server.hub, part, record)
        if not sender.send() or part.faults.length_error:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_WR)


class Sender:
    """Sends a part of a blob, with its faults, in pieces that end where something is to happen."""

    def __init__(self, connection: socket.socket, hub: FakeHub, part: Part, record: Record) -> None:
        self.connection, self.hub, self.part, self.record = connection, hub, part, record
        self.faults = part.faults
        self.file = part.blob.data.open("rb") if isinstance(part.blob.data, Path) else None

    def send(self) -> bool:
        """Whether everything was sent; not where the connection is to be cut."""
        try:
            return self._send_pieces()
        finally:
            if self.file:
                self.file.close()

    def _send_pieces(self) -> bool:
        position, faults = self.part.start, self.faults
        stalled = self.part.start + faults.stall_after if faults.stall else None
        cut = None if faults.cut_after is None else self.part.start + faults.cut_after
        while position < self.part.stop:
            if position == cut:
                return False
            if position == stalled:
                self._wait(faults.stall)
                stalled = None
            stop = min([self.part.stop, position + self._piece(), *self._marks(position, stalled, cut)])
            sent = self._flipped(position) if position == faults.flip else self._plain(position, stop - position)
            self.record.sent_bytes += sent
            position += sent
            if faults.slow:
                self._wait(sent / faults.slow)
        return True

    def _marks(self, position: int, stalled: int | None, cut: int | None) -> list[int]:
        flip = self.faults.flip
        around = [] if flip is None else [flip, flip + 1]
        return [mark for mark in (*around, stalled, cut) if mark is not None and mark > position]

    def _piece(self) -> int:
        return max(1, min(_PIECE, int(self.faults.slow / 20))) if self.faults.slow else _PIECE

    def _plain(self, position: int, count: int) -> int:
        if self.file:
            return os.sendfile(self.connection.fileno(), self.file.fileno(), position, count)
        data = self.part.blob.data
        if not isinstance(data, bytes):
            raise TypeError("the blob's bytes are not here: they were uploaded by Xet")
        self.connection.sendall(memoryview(data)[position : position + count])
        return count

    def _flipped(self, position: int) -> int:
        data = self.part.blob.data
        byte = os.pread(self.file.fileno(), 1, position) if self.file else data[position : position + 1]  # type: ignore[index]
        self.connection.sendall(bytes([byte[0] ^ 0xFF]))
        return 1

    def _wait(self, seconds: float) -> None:
        if self.hub.closing.wait(seconds):
            raise ConnectionAbortedError
