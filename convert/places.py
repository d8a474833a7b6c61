"""What a folder holds, by opening it: several checkpoints may lie in one, such as a repository's `original/`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_convert.convert.containers import WEIGHTS
from llama_convert.convert.containers.gguf_splits import one_of_each
from llama_convert.convert.disk import files_below, unnoticed
from llama_convert.convert.errors import ConvertError, ForeignError
from llama_convert.convert.formats import all_formats
from llama_convert.convert.inspection import inspect_checkpoint

_DEEPEST = 2  # folders between a repository's root and its weights: original/mp16/
_GGUF = "gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A checkpoint in a few words. dtype: in which most values are stored.

    place: inside the folder that was looked into, "" for that itself. problem: why it cannot be used; then the rest
    may be None. foreign: because it is no Llama.
    """

    place: str
    format: str | None = None
    llama_version: str | None = None
    parameters: int | None = None
    dtype: str | None = None
    problem: str = ""
    foreign: bool = False


def look_into(folder: Path) -> tuple[Contents, ...]:
    """Every checkpoint in the folder, broken and foreign ones included; none where no format knows its files.

    Cost: the indexes of the weight files. Raises OSError for what cannot be read, and nothing else that files can
    cause.
    """
    with unnoticed(list(files_below(folder))):
        found = {place: _opened(place, folder) for place in _places(folder, _DEEPEST)}
        return tuple(contents for place, contents in found.items() if not contents.problem or _has_weights(place))


def _places(folder: Path, depth: int) -> Iterator[Path]:
    """Folders and GGUF files that a format recognises; GGUF files lie beside other formats, and many in one folder."""
    if any(form.name != _GGUF and form.recognises(folder) for form in all_formats()):
        yield folder
    yield from one_of_each(sorted(folder.glob("*.gguf")))
    for inner in sorted(folder.iterdir()) if depth else ():
        if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
            yield from _places(inner, depth - 1)


def _has_weights(place: Path) -> bool:
    """Sizes and a tokenizer alone, as our own output has them in `original/`, are no broken checkpoint."""
    return place.is_file() or any(path.suffix in WEIGHTS for path in place.iterdir())


def _opened(place: Path, folder: Path) -> Contents:
    name = "" if place == folder else str(place.relative_to(folder))
    try:
        found = inspect_checkpoint(place)
    except ConvertError as error:
        problem = error.summary.replace(f"{folder}{os.sep}", "").removeprefix(f"{folder}: ")
        return Contents(place=name, problem=problem, foreign=isinstance(error, ForeignError))
    except Exception as error:  # noqa: BLE001 - told in its row: one entry must not hide all others
        return Contents(place=name, problem=f"{type(error).__name__}: {error}")
    return Contents(
        place=name,
        format=found.format,
        llama_version=found.versions[0],
        parameters=found.config.parameters,
        dtype=found.main_dtype,
    )
