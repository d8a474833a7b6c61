"""`special_tokens.json`: names of the special tokens beside a tokenizer.model that has none of its own.

Meta's code has these names in itself; this file is ours, and written only where a model's names are others.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.outputs import SideFile

NAME = "special_tokens.json"


def read_special_names(folder: Path) -> tuple[str, ...] | None:
    """The names in the order of their ids; None where the folder has no such file.

    Raises CheckpointError: no list of texts, or a name twice or empty.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}", advice="Restore it, or remove it.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise CheckpointError(f"{path}: holds no list of names", advice="Restore it, or remove it.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CheckpointError(f"{path}: names given twice", problems=twice[:10], advice="Restore it, or remove it.")
    return tuple(names)


def special_names_file(names: tuple[str, ...]) -> SideFile:
    """The file with these names."""
    return SideFile(NAME, partial(_write, names))


def _write(names: tuple[str, ...], target: Path) -> None:
    target.write_text(json.dumps(names, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
