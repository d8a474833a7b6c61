"""What files say their bytes are: each statement a digest, all of one file held against it in one reading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from llama_convert.convert.digests import Extent, digests


class Kind(Enum):
    """Who says it, in words for a line of figures."""

    RECORDS = "{} of .pth records"
    CHECKLIST = "{} of checklist.chk"
    HUB = "{} of the Hub"
    CERTIFICATE = "{} of conversion.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A digest that bytes of a file are said to have.

    what: the bytes in words; empty where they are the whole file. said_by: the place of the digest, in words.
    """

    kind: Kind
    path: Path
    extent: Extent
    wanted: str
    said_by: str
    what: str = ""


def broken(statements: Sequence[Statement]) -> list[str]:
    """One line for every statement that does not hold, in their order. Cost: one reading of what they are about."""
    wanted: dict[Path, list[Extent]] = {}
    for statement in statements:
        wanted.setdefault(statement.path, []).append(statement.extent)
    found = digests(wanted)
    return [
        _finding(statement, found[statement.path, statement.extent])
        for statement in statements
        if found[statement.path, statement.extent] != statement.wanted
    ]


def _finding(statement: Statement, found: str | None) -> str:
    algorithm, where = statement.extent.algorithm, statement.path.name
    subject = f"{where}: {statement.what}" if statement.what else where
    if found is None:
        return f"{subject} is beyond the file's end; {statement.said_by} says its {algorithm} is {statement.wanted}"
    return f"{subject} has {algorithm} {found}, {statement.said_by} says {statement.wanted}"


def counts(statements: Iterable[Statement]) -> dict[Kind, int]:
    """How many statements there are of each kind that has any."""
    kinds = [statement.kind for statement in statements]
    return {kind: kinds.count(kind) for kind in Kind if kind in kinds}
