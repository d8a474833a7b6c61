"""A request as the routes see it, and what they answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hub.fake_hub.contents import Blob
from tests.hub.fake_hub.faults import NONE, Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """path: as it came, still quoted, without the query. query: the last value of each name."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes | Path = b""

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text())

    def text(self) -> bytes:
        """The body as bytes."""
        return self.body.read_bytes() if isinstance(self.body, Path) else self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Bytes [start, stop) of a blob, sent with these faults."""

    blob: Blob
    start: int
    stop: int
    faults: Faults = NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back. range: what the log keeps of a partial answer."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Part = b""
    range: tuple[int, int] | None = None


class Refusal(Exception):
    """An answer that is no."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer.status))
        self.answer = answer


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """The value as a JSON answer."""
    return Answer(
        status=status,
        headers={"Content-Type": "application/json; charset=utf-8", **(headers or {})},
        body=json.dumps(value).encode(),
    )


def refusal(status: int, message: str, code: str = "") -> Refusal:
    """An error as the Hub words it: X-Error-Code, X-Error-Message and the same as JSON."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return Refusal(as_json({"error": message}, status, headers))


def faulty_status(faults: Faults) -> Answer | None:
    """The answer that is ordered in place of the right one."""
    if faults.status is None:
        return None
    headers = {"Retry-After": str(faults.retry_after)} if faults.retry_after is not None else {}
    return as_json({"error": "ordered by the test"}, faults.status, headers)
