"""The one place that prints: results go to stdout, talk and progress to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How a command speaks. json: one JSON object on stdout and no other result. quiet: no talk."""

    json: bool = False
    quiet: bool = False

    def result(self, text: str) -> None:
        """What was asked for, as text; nothing with --json."""
        if not self.json:
            print(text)

    def piece(self, text: str) -> None:
        """Part of what was asked for, as soon as it is known; nothing with --json."""
        if not self.json:
            print(text, end="", flush=True)

    def data(self, values: dict[str, Any]) -> None:
        """What was asked for, as JSON; nothing without --json."""
        if self.json:
            print(json.dumps(_finite(values), indent=2, ensure_ascii=False, default=str, allow_nan=False))

    def say(self, text: str) -> None:
        """What the user may want to know meanwhile."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def lead_in(self, text: str) -> None:
        """What a result goes on from, in front of it; only where both are seen on one terminal."""
        if not (self.quiet or self.json) and sys.stdout.isatty():
            print(text, end="", file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        """A bar of bytes with speed and time left, on terminals; call what it gives with bytes done."""
        from tqdm import tqdm

        hidden = True if self.quiet else None  # None: shown on a terminal only
        with tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=hidden, file=sys.stderr) as bar:
            yield bar.update


def _finite(value: Any) -> Any:
    """The same with null for NaN and infinities: JSON has no word for them, and strict readers refuse the file."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def complain(text: str) -> None:
    """An error, on stderr, whatever --quiet says."""
    print(text, file=sys.stderr)


def gigabytes(nbytes: float) -> str:
    """Bytes as a person reads them: 16.06 GB, 3.1 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{nbytes:.0f} B"


def count(number: int) -> str:
    """A large number as a person reads it: 8.03 B, 1.6 M."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as aligned columns; the last column is left as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )
