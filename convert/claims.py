"""What a converted folder says of itself that not every format can: the version it was taken as, its names, its pad."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_convert.convert.checkpoint import Checkpoint

NAME = "conversion.json"


@dataclass(frozen=True, slots=True)
class Claims:
    """None where conversion.json is missing, unreadable or silent: claims are a help, never needed.

    llama_version: tells 3.1 from 3.2 where no file does; of an imported folder only what was certain.
    special_tokens: names given by the user. pad: the id to pad with.
    """

    llama_version: str | None = None
    special_tokens: tuple[str, ...] | None = None
    pad: int | None = None


def read_claims(folder: Path) -> Claims:
    """The claims of the folder's conversion.json."""
    try:
        values: Any = json.loads((folder / NAME).read_bytes())
        names = values["options"].get("special_tokens")
        pad = values.get("vocabulary", {}).get("pad")
        version = values["source"].get("llama_version")
        return Claims(
            version if isinstance(version, str) else None,
            tuple(map(str, names)) if names else None,
            pad if type(pad) is int else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Claims()


def pad_of(source: Checkpoint) -> int | None:
    """The id to pad with, as the change says, or the source's files; None where only a vocabulary may tell.

    Formats without a word for it have it in the conversion.json beside them.
    """
    if source.change and source.change.pad is not None:
        return source.change.pad
    if source.tokenizer and source.tokenizer.conventions:
        return source.tokenizer.conventions.pad
    claimed = read_claims(source.folder).pad
    return claimed if claimed is not None and 0 <= claimed < source.config.vocab_size else None
