"""Bytes received below the client: plain, through TLS, and where the client must take the body apart itself."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest
from huggingface_hub.utils import httpx

from llama_convert.hub import wire

BODY = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run([*command.split(), "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@contextmanager
def served(head: bytes, body: bytes, certificate: Path | None = None, pause: float = 0.0) -> Iterator[str]:
    """A server that gives this answer to each connection, with a pause in its middle."""
    listener = socket.create_server(("127.0.0.1", 0))
    waiting = Event()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if certificate:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(certificate)
                connection = context.wrap_socket(connection, server_side=True)
            with connection, suppress(OSError):  # a client that goes away is what some tests are about
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body[: len(body) // 2])
                waiting.wait(pause)
                connection.sendall(body[len(body) // 2 :])

    Thread(target=serve, daemon=True).start()
    try:
        yield f"http{'s' if certificate else ''}://localhost:{listener.getsockname()[1]}/"
    finally:
        waiting.set()
        listener.close()


def received(url: str, wanted: int, certificate: Path | None = None, seconds: float = 5.0) -> bytes:
    trust = ssl.create_default_context(cafile=f"{certificate}.crt") if certificate else True
    with httpx.Client(verify=trust, trust_env=False) as client, client.stream("GET", url) as response:
        return b"".join(map(bytes, wire.body(response, wanted, seconds=seconds, halted=Event())))


LENGTH = f"Content-Length: {len(BODY)}".encode()


@pytest.mark.parametrize("wanted", [len(BODY), 1_500_001, 10])
@pytest.mark.parametrize("encrypted", [False, True])
def test_as_many_bytes_come_as_are_wanted(encrypted: bool, wanted: int, certificate: Path) -> None:
    used = certificate if encrypted else None
    with served(LENGTH, BODY, used) as url:
        assert received(url, wanted, used) == BODY[:wanted]


@pytest.mark.parametrize("encrypted", [False, True])
def test_silence_ends_it_after_what_came(encrypted: bool, certificate: Path) -> None:
    used = certificate if encrypted else None
    with served(LENGTH, BODY, used, pause=30.0) as url, pytest.raises(TimeoutError, match="no byte"):
        received(url, len(BODY), used, seconds=0.2)


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_body_that_ends_early_is_short(encrypted: bool, certificate: Path) -> None:
    used = certificate if encrypted else None
    with served(LENGTH, BODY[:2_000_000], used) as url:
        assert received(url, len(BODY), used) == BODY[:2_000_000]


def test_a_body_of_unknown_length_goes_through_the_client() -> None:
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(BODY) // 2, half) for half in (BODY[:1_500_000], BODY[1_500_000:]))
    with served(b"Transfer-Encoding: chunked", chunked + b"0\r\n\r\n") as url:
        assert received(url, len(BODY)) == BODY


def test_more_than_was_announced_is_not_taken() -> None:
    with served(b"Content-Length: 2000000", BODY) as url:
        assert received(url, len(BODY)) == BODY[:2_000_000]


def test_whoever_wants_no_more_gets_no_more() -> None:
    halted = Event()
    with (
        served(LENGTH, BODY, pause=30.0) as url,
        httpx.Client(trust_env=False) as client,
        client.stream("GET", url) as response,
    ):
        pieces = wire.body(response, len(BODY), seconds=20.0, halted=halted)
        next(pieces)
        halted.set()
        with pytest.raises(wire.HaltedError):
            list(pieces)
