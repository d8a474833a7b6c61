"""What the names in a checkpoint mean; one file per format, all of them listed here."""

from __future__ import annotations

from pathlib import Path

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.formats.format import Format
from llama_convert.convert.formats.huggingface import HUGGING_FACE
from llama_convert.convert.formats.meta import META

FORMATS: tuple[Format, ...] = (META, HUGGING_FACE)


def open_checkpoint(path: Path, llama_version: str | None = None) -> Checkpoint:
    """The checkpoint in a folder, its format recognised by its files.

    llama_version: what the user says it is; held against the files.
    Raises UsageError: no such folder. CheckpointError: no known format, or a damaged one.
    Cost: the files' indexes; weights are read only where their values decide (a tied head).
    """
    if not path.is_dir():
        what = "is a file, wanted the folder it is in" if path.exists() else "no such folder"
        raise UsageError(f"{path}: {what}", advice="Give the folder that holds the checkpoint.")
    for form in FORMATS:
        if form.recognises(path):
            return form.open(path, llama_version)
    inner = [place for place in (path / "original", *sorted(path.glob("*/"))) if place.is_dir() and _known(place)]
    raise CheckpointError(
        f"{path}: no checkpoint here; known are " + ", ".join(f"{form.title} ({form.name})" for form in FORMATS),
        advice=f"Did you mean {inner[0]}?" if inner else "Give the folder that holds the weights themselves.",
    )


def _known(folder: Path) -> bool:
    return any(form.recognises(folder) for form in FORMATS)
