"""Small JSON files: read as an object, written with a plan, their numbers held to be numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from llama_convert.convert.containers.lookalikes import START, refuse_lookalike
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.outputs import SideFile


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. CheckpointError: missing, no JSON, or JSON of another kind.

    LookalikeError where it is something else altogether, such as a web page.
    """
    try:
        data = path.read_bytes()
        refuse_lookalike(path, data[:START], "JSON")
        values = json.loads(data)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing", advice=f"Download {path.name} into the same folder.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}", advice=f"Download {path.name} again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path}: unreadable: it holds no object of names and values", advice=f"Download {path.name} again."
        )
    return values


def no_numbers(values: Mapping[str, Any], whole: Sequence[str], real: Sequence[str]) -> Iterator[str]:
    """One sentence for every value that is no number of its kind; absent ones and null are passed over.

    whole: names of integers. real: names of numbers above zero. true and false are no numbers in JSON.
    """
    for name in (*whole, *real):
        value = values.get(name)
        if value is None:
            continue
        if name in whole and type(value) is not int:
            yield f"{name} is {value!r}, wanted a whole number"
        elif name in real and (type(value) not in (int, float) or not 0 < value < inf):
            yield f"{name} is {value!r}, wanted a number above zero"


def json_file(name: str, values: Mapping[str, Any]) -> SideFile:
    """The values as an indented JSON file, keys in the order given."""
    return SideFile(name, partial(_write, values))


def _write(values: Mapping[str, Any], target: Path) -> None:
    target.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
