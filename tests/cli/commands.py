"""The command line as a test drives it: one run and what came of it, and ways to damage a checkpoint."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """One command: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> list[str]:
        """The lines of the error: what is wrong, its details, and last the advice."""
        lines = self.err.splitlines()
        (start,) = (number for number, line in enumerate(lines) if line.startswith("llama-convert: "))
        return lines[start:]


def leftovers(folder: Path) -> list[str]:
    """What stands under the output's name or beside it in its name."""
    return sorted(path.name for path in folder.parent.iterdir() if folder.name in path.name)


def change_shards(folder: Path, change: Callable[[Path, State], State | None], *, legacy: bool = False) -> None:
    """Save every shard again as `change` leaves or gives it."""
    for path in sorted(folder.glob("*.pth")):
        state = torch.load(path)
        changed = change(path, state)
        torch.save(state if changed is None else changed, path, _use_new_zipfile_serialization=not legacy)


def change_json(path: Path, **values: Any) -> None:
    """Set these keys; `...` removes one."""
    changed = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not ...}))


def flip_byte(path: Path, record: str) -> None:
    """Change one bit in the middle of a record of a zip `.pth`."""
    with zipfile.ZipFile(path) as archive:
        (info,) = (info for info in archive.infolist() if info.filename.endswith(f"/{record}"))
    data = bytearray(path.read_bytes())
    data[info.header_offset + 256 + info.file_size // 2] ^= 1
    path.write_bytes(data)


def swap(a: Path, b: Path) -> None:
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)
