"""Small JSON files of a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llama_convert.convert.plan import SideFile


def json_file(name: str, values: Mapping[str, Any]) -> SideFile:
    """The values as an indented JSON file, keys in the order given."""
    return SideFile(name, partial(_write, values))


def _write(values: Mapping[str, Any], target: Path) -> None:
    target.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
