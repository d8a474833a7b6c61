"""What a converted folder says of itself that not every format can: the version it was taken as, its names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_convert.convert.certificate import NAME


@dataclass(frozen=True, slots=True)
class Claims:
    """None where conversion.json is missing, unreadable or silent: claims are a help, never needed.

    llama_version: tells 3.1 from 3.2 where no file does. special_tokens: names given by the user.
    """

    llama_version: str | None = None
    special_tokens: tuple[str, ...] | None = None


def read_claims(folder: Path) -> Claims:
    """The claims of the folder's conversion.json."""
    try:
        values: Any = json.loads((folder / NAME).read_bytes())
        names = values["options"]["special_tokens"]
        return Claims(str(values["source"]["llama_version"]), tuple(map(str, names)) if names else None)
    except (OSError, ValueError, KeyError, TypeError):
        return Claims()
