"""What often lies under the name of a weight file and is none."""

from __future__ import annotations

from llama_convert.convert.containers.slices import ByteSource
from llama_convert.convert.errors import CheckpointError

_PAGE = "The download was answered by a web page; fetch the file again."
_LOOKALIKES = {
    b"version https://git-lfs": ("a Git LFS pointer", "Fetch the real file: git lfs pull"),
    b"<!doctype html": ("an HTML page", _PAGE),
    b"<html": ("an HTML page", _PAGE),
    b"<?xml": ("an XML error message", "The download link had expired; fetch the file again."),
}


def refuse_lookalikes(source: ByteSource, start: bytes) -> None:
    """CheckpointError where these first bytes of the file show that it holds no weights."""
    if not start:
        raise CheckpointError(f"{source.path}: empty file", advice="Fetch the file again.")
    for prefix, (what, advice) in _LOOKALIKES.items():
        if start.lstrip().lower().startswith(prefix):
            raise CheckpointError(f"{source.path}: this is {what}, not weights", advice=advice)
