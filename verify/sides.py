"""What the sides of a verification are, in a few figures, without reading a weight."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.origin import known_origin, name_of
from llama_convert.verify.files import whole_digests
from llama_convert.verify.reading import stored_type
from llama_convert.verify.report import FileFacts, Side
from llama_convert.verify.statements import Statement


def described(checkpoint: Checkpoint) -> Side:
    """The checkpoint as a side. No folder above it is named: a report may be published."""
    origin = known_origin(checkpoint.path)
    digests = whole_digests(checkpoint)
    paths = [file.path for file in checkpoint.files]
    paths += [checkpoint.tokenizer.path] if checkpoint.tokenizer else []
    return Side(
        name=name_of(checkpoint.path),
        format=checkpoint.format.name,
        llama_version=checkpoint.version.name,
        parameters=checkpoint.config.parameters,
        types=_types(checkpoint),
        repository=origin.repository if origin else None,
        commit=origin.commit if origin else None,
        files=tuple(_file(path, digests.get(path)) for path in dict.fromkeys(paths)),
    )


def _types(checkpoint: Checkpoint) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for parts in checkpoint.parts.values():
        for piece in parts.pieces:
            counts[stored_type(piece)] += prod(piece.shape)
    return dict(counts.most_common())


def _file(path: Path, digest: Statement | None) -> FileFacts:
    return FileFacts(
        name=path.name,
        nbytes=path.stat().st_size,
        digest=f"{digest.extent.algorithm} {digest.wanted}" if digest else None,
        said_by=digest.said_by if digest else None,
    )
