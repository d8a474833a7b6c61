"""The digests that the Hub's client leaves beside what it fetched. It never holds files against them itself.

Sources: huggingface_hub file_download.py (cache: links into blobs/, named after the ETag), _local_folder.py
(local_dir: a .metadata file for each file). The ETag is the SHA-256 of a large file, git's SHA-1 of a small one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from llama_convert.convert.digests import GIT_SHA1, SHA256, Extent, all_of
from llama_convert.verify.statements import Kind, Statement

_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ALGORITHMS = {40: GIT_SHA1, 64: SHA256}
_METADATA = Path(".cache", "huggingface", "download")
_DEEPEST = 2  # folders between a checkpoint and the root of its download: original/mp8/


def hub_statements(paths: Iterable[Path]) -> Iterator[Statement]:
    """What the Hub said of those of the files that its client fetched."""
    for path in paths:
        etag = _blob(path) or _recorded(path)
        if etag is not None:
            extent = Extent(_ALGORITHMS[len(etag)], all_of(path))
            yield Statement(kind=Kind.HUB, path=path, extent=extent, wanted=etag, said_by="the Hub")


def _blob(path: Path) -> str | None:
    """The name of the blob that a snapshot's link leads to; that may be a link itself."""
    if not path.is_symlink():
        return None
    target = Path(os.readlink(path))
    return target.name if target.parent.name == "blobs" and _ETAG.fullmatch(target.name) else None


def _recorded(path: Path) -> str | None:
    """The ETag in the second of the three lines that describe a file of a local folder."""
    for root in path.absolute().parents[: _DEEPEST + 1]:
        name = path.absolute().relative_to(root)
        metadata = root / _METADATA / f"{name}.metadata"
        if metadata.is_file():
            lines = metadata.read_text(encoding="utf-8", errors="replace").splitlines()
            return lines[1] if len(lines) > 1 and _ETAG.fullmatch(lines[1]) else None
    return None
