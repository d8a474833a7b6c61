"""How the findings in a damaged file are told: all of them, but no more than a screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import UsageError

SHOWN = 12


def capped(problems: Sequence[str]) -> list[str]:
    """The first dozen problems, and a last line that counts the others."""
    shown = list(problems[:SHOWN])
    if len(problems) > SHOWN:
        shown.append(f"... and {len(problems) - SHOWN} more")
    return shown


def read_bytes(path: Path, limit: int = -1) -> bytes:
    """The file's first `limit` bytes, or all of them. Raises UsageError where there is no readable file."""
    try:
        source = byte_source(path)
        return source.read(0, source.size if limit < 0 else limit)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read as a tokenizer file: {error.strerror or error}.",
            advice="Name Meta's tokenizer.model, which lies beside params.json or one folder above it.",
        ) from error
