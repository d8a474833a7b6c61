"""`special_tokens.json`: names of the special tokens beside a tokenizer.model that has none of its own.

Meta's code has these names in itself; this file is ours, and written only where a model's names are others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.outputs import SideFile

NAME = "special_tokens.json"


def read_special_names(folder: Path) -> tuple[str, ...] | None:
    """The names in the order of their ids; None where the folder has no such file.

    Raises CheckpointError: no list of names, or a name twice or empty.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    entries = _entries(path)
    names = [entry["content"] if isinstance(entry, dict) else entry for entry in entries]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CheckpointError(f"{path}: names given twice", problems=twice[:10], advice="Restore it, or remove it.")
    return tuple(names)


def read_plain_names(folder: Path) -> frozenset[str]:
    """Those of the names that are part of a text's meaning, not special: objects in the file, as in Hugging Face's."""
    path = folder / NAME
    entries = _entries(path) if path.is_file() else []
    return frozenset(entry["content"] for entry in entries if isinstance(entry, dict) and entry.get("special") is False)


def _entries(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}", advice="Restore it, or remove it.") from error
    if not isinstance(entries, list) or not all(_is_name(entry) for entry in entries):
        raise CheckpointError(f"{path}: holds no list of names", advice="Restore it, or remove it.")
    return entries


def _is_name(entry: Any) -> bool:
    name = entry.get("content") if isinstance(entry, dict) else entry
    return isinstance(name, str) and bool(name)


def special_names_file(names: Sequence[str], plain: Container[str] = ()) -> SideFile:
    """The file with these names; `plain` ones say of themselves that they are not special."""
    return SideFile(NAME, partial(_write, [_entry(name, name in plain) for name in names]))


def _entry(name: str, plain: bool) -> str | dict[str, object]:
    return {"content": name, "special": False} if plain else name


def _write(entries: Sequence[object], target: Path) -> None:
    lines = (json.dumps(entry, ensure_ascii=False) for entry in entries)
    target.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
