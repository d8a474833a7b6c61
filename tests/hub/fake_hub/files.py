"""A file's bytes as an answer, and the signed addresses of the CDN."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from tests.hub.fake_hub.answers import Answer, Call, Part, Refusal, faulty_status
from tests.hub.fake_hub.contents import Blob
from tests.hub.fake_hub.faults import Faults

if TYPE_CHECKING:
    from tests.hub.fake_hub.hub import FakeHub

LIFETIME = 3600.0  # seconds that a signature holds
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in to go on.</body></html>\n"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
_STORED = re.compile(r"/(blob|upload)/([0-9a-f]{64})/(.*)$")


@dataclass
class Signer:
    """Gives out and checks the CDN's addresses. serial: the how manieth address of its file this one is."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    given: Counter[str] = field(default_factory=Counter)
    lock: Lock = field(default_factory=Lock)

    def sign(self, path: str) -> str:
        """The path with a fresh signature."""
        with self.lock:
            self.given[path] += 1
            words = f"X-Amz-Date={time.time():.3f}&X-Amz-Expires={LIFETIME:.0f}&serial={self.given[path]}"
        return f"{path}?{words}&X-Amz-Signature={self._code(path, words)}"

    def holds(self, call: Call, faults: Faults) -> bool:
        """Whether the address was given out here, and is still good."""
        query = dict(call.query)
        code = query.pop("X-Amz-Signature", "")
        words = "&".join(f"{key}={value}" for key, value in query.items())
        if not hmac.compare_digest(code, self._code(call.path, words)):
            return False
        lifetime = LIFETIME if faults.expired is None else faults.expired
        return time.time() - float(query["X-Amz-Date"]) <= lifetime and int(query["serial"]) > faults.dead_signatures

    def _code(self, path: str, words: str) -> str:
        return hmac.new(self.secret, f"{path}?{words}".encode(), hashlib.sha256).hexdigest()


def stored_path(kind: str, sha256: str, name: str) -> str:
    """Where the CDN keeps a blob; kind: `blob` or `upload`."""
    return f"/{kind}/{sha256}/{quote(name)}"


def cdn_answer(hub: FakeHub, call: Call) -> Answer:
    """What the CDN says: a blob's bytes to whoever has a good address, and room for uploads."""
    found = _STORED.match(call.path)
    if found is None:
        return _xml(404, "NoSuchKey")
    kind, sha256, name = found[1], found[2], unquote(found[3])
    if kind == "upload":
        return _stored(hub, call, sha256)
    faults = hub.book.strike("file", name)
    if not hub.signer.holds(call, faults):
        return _xml(403, "AccessDenied", "Request has expired")
    return file_answer(hub.blobs[sha256], call.headers, faults, {"ETag": f'"{sha256}"'})


def file_answer(blob: Blob, headers: Mapping[str, str], faults: Faults, own: Mapping[str, str]) -> Answer:
    """The blob, or the range of it that was asked for, with what goes wrong."""
    wrong = faulty_status(faults)
    if wrong is not None:
        return wrong
    if faults.html:
        return Answer(headers={"Content-Type": "text/html; charset=utf-8"}, body=PAGE)
    common = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **own}
    asked = None if faults.ignore_range else _range(headers.get("range", ""), blob.size)
    if asked is None:
        return Answer(headers=common, body=Part(blob=blob, start=0, stop=blob.size, faults=faults))
    start, stop = asked
    shown = {**common, "Content-Range": f"bytes {start}-{stop - 1}/{blob.size}"}
    return Answer(
        status=206, headers=shown, body=Part(blob=blob, start=start, stop=stop, faults=faults), range=(start, stop)
    )


def _range(words: str, size: int) -> tuple[int, int] | None:
    """[start, stop) of a Range header; None without one. 416 beyond the end."""
    found = _RANGE.match(words)
    if found is None or found[1] == found[2] == "":
        return None
    first, last = found[1], found[2]
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise Refusal(Answer(status=416, headers={"Content-Range": f"bytes */{size}"}))
    return start, stop


def _stored(hub: FakeHub, call: Call, sha256: str) -> Answer:
    """An uploaded blob, kept if it is the announced one."""
    if call.method != "PUT" or not hub.signer.holds(call, Faults()):
        return _xml(403, "AccessDenied")
    wrong = faulty_status(hub.book.strike("upload", call.path))
    if wrong is not None:
        return wrong
    blob = Blob.of(call.body)
    if blob.sha256 != sha256:
        return _xml(400, "BadDigest")
    hub.blobs[sha256] = blob
    return Answer(headers={"ETag": f'"{sha256}"'})


def _xml(status: int, code: str, message: str = "") -> Answer:
    """An error as the storage words it."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status=status, headers={"Content-Type": "application/xml"}, body=text.encode())
