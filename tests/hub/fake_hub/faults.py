"""Faults to order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from threading import Lock
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong. Without a word: with answers that carry a file's bytes, of the CDN or of the Hub itself.

    cut_after: the connection ends after so many bytes of the body. stall, stall_after: silence of `stall` seconds
    after so many bytes. flip: the byte at this offset of the file is another. status, retry_after: this status in
    place of an answer (with Retry-After seconds). ignore_range: 200 and everything, whatever was asked. expired:
    403 to signatures older than so many seconds. dead_signatures: 403 to the first N signatures given out for each
    file. slow: bytes per second of one connection. html: 200 and a page in place of the file. length_error: added
    to the true Content-Length. head_delay: seconds before a HEAD of a file is answered.

    first: only the first N requests that the fault is about. suffix: only files with names that end so.
    on: what `status` is about: a file's bytes, the HEAD or redirect of a file (`/resolve`), an upload, or `/api`.
    """

    cut_after: int | None = None
    stall: float = 0.0
    stall_after: int = 0
    flip: int | None = None
    status: int | None = None
    retry_after: int | None = None
    ignore_range: bool = False
    expired: float | None = None
    dead_signatures: int = 0
    slow: float | None = None
    html: bool = False
    length_error: int = 0
    head_delay: float = 0.0
    first: int | None = None
    suffix: str = ""
    on: Literal["file", "head", "upload", "api"] = "file"


NONE = Faults()
_LIMITS = ("first", "suffix", "on")


class FaultBook:
    """The faults in force, and how often each has struck."""

    def __init__(self, faults: Faults | Sequence[Faults] = NONE) -> None:
        self.faults = (faults,) if isinstance(faults, Faults) else tuple(faults)
        self._struck: Counter[tuple[int, str]] = Counter()
        self._lock = Lock()

    def strike(self, on: str, name: str) -> Faults:
        """What goes wrong with this request: every fault in force for it, as one. Each counts it."""
        found = NONE
        with self._lock:
            for index, fault in enumerate(self.faults):
                if name.endswith(fault.suffix) and self._concerns(fault, on):
                    self._struck[index, on] += 1
                    if fault.first is None or self._struck[index, on] <= fault.first:
                        found = _joined(found, fault if fault.on == on else Faults(head_delay=fault.head_delay))
        return found

    @staticmethod
    def _concerns(fault: Faults, on: str) -> bool:
        return fault.on == on or (on == "head" and fault.head_delay > 0)


def _joined(one: Faults, other: Faults) -> Faults:
    """The first with everything that the second sets."""
    changed = {
        entry.name: getattr(other, entry.name)
        for entry in fields(Faults)
        if entry.name not in _LIMITS and getattr(other, entry.name) != entry.default
    }
    return replace(one, **changed)
