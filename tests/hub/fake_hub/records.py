"""What was asked of the fake Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. host: `hub` or `cdn`. range: the bytes answered, [start, stop), where a range was asked for
    and given. sent_bytes, received_bytes: of the bodies alone."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    range: tuple[int, int] | None
    status: int
    sent_bytes: int
    received_bytes: int


@dataclass(slots=True, kw_only=True)
class Record:
    """A request that may still be under way."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    range: tuple[int, int] | None = None
    status: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def frozen(self) -> Request:
        return Request(
            method=self.method, host=self.host, path=self.path, headers=self.headers, range=self.range,
            status=self.status, sent_bytes=self.sent_bytes, received_bytes=self.received_bytes,
        )  # fmt: skip


@dataclass
class Log:
    """All requests, in the order in which they came."""

    records: list[Record] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def start(self, record: Record) -> Record:
        with self.lock:
            self.records.append(record)
        return record

    def requests(self) -> list[Request]:
        with self.lock:
            return [record.frozen() for record in self.records]

    def clear(self) -> None:
        with self.lock:
            self.records.clear()
