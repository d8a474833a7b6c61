"""A model in several GGUF files: their names, and whether those found belong together.

Sources: gguf-py/gguf/gguf_writer.py, llama.cpp src/llama-model-loader.cpp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from llama_convert.convert.containers.gguf import GgufFile, read_gguf
from llama_convert.convert.containers.gguf_values import Kind, Scalar
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError, counted

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"


def split_name(stem: str, number: int, count: int) -> str:
    """`name-00001-of-00003.gguf`; number counts from 1."""
    return f"{stem}-{number:05}-of-{count:05}.gguf"


def one_of_each(paths: Sequence[Path]) -> list[Path]:
    """Of each model the first file that is there; files are parts of one model where their names say so."""
    found: dict[tuple[str, str | None], Path] = {}
    for path in paths:
        match = _NAME.fullmatch(path.name)
        found.setdefault((match["stem"], match["count"]) if match else (path.name, None), path)
    return list(found.values())


def split_metadata(number: int, count: int, tensors: int) -> dict[str, Scalar]:
    """The keys that each part ends its metadata with. number: from 1. tensors: in all parts together."""
    return {
        _NUMBER: Scalar(Kind.UINT16, number - 1),
        _COUNT: Scalar(Kind.UINT16, count),
        _TENSORS: Scalar(Kind.INT32, tensors),
    }


def split_paths(path: Path) -> tuple[Path, ...]:
    """All parts of the model that this file is a part of, by their names and in order; else the file alone.

    Raises CheckpointError with the parts that are missing.
    """
    match = _NAME.fullmatch(path.name)
    if not match:
        return (path,)
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        raise CheckpointError(
            f"{path}: part {number} of {count} cannot be", advice="Give the file its original name back."
        )
    paths = tuple(path.with_name(split_name(match["stem"], part, count)) for part in range(1, count + 1))
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise CheckpointError(
            f"{path.parent}: {counted(len(missing), 'part')} of {count:,} missing",
            problems=missing[:50],
            advice="Fetch all parts into the same folder.",
        )
    return paths


def read_split(path: Path) -> tuple[GgufFile, ...]:
    """All parts of the model, in order, from the path of any one; a file that is no part is the only one.

    The model's metadata is in the first part.
    Raises CheckpointError: what split_paths and read_gguf raise, and parts that are not of one model, with all
    that speaks against it: another number or count inside than in the name, tensors twice, missing or too many.
    """
    files = tuple(read_gguf(byte_source(part)) for part in split_paths(path))
    problems = [problem for number, file in enumerate(files) for problem in _foreign(file, number, len(files))]
    problems += _miscounted(files)
    if problems:
        raise CheckpointError(
            f"{path}: {counted(len(files), 'file')} that do not make one model ({counted(len(problems), 'problem')})",
            problems=problems[:50],
            advice="Fetch all parts again, from one place and under their original names.",
        )
    return files


def _foreign(file: GgufFile, number: int, count: int) -> Iterator[str]:
    name = file.file.path.name
    found = _whole(file, _COUNT)
    if count > 1 and found is None:
        yield f"{name}: no {_COUNT}, wanted {count}"
    elif found not in (None, count) and (count, found) != (1, 0):  # 0: merged by llama-gguf-split
        yield f"{name}: {_COUNT} is {found}, wanted {count}"
    if count > 1 and _whole(file, _NUMBER) != number:
        yield f"{name}: {_NUMBER} is {_whole(file, _NUMBER)}, wanted {number}"


def _miscounted(files: Sequence[GgufFile]) -> Iterator[str]:
    counts = Counter(name for file in files for name in file.file.tensors)
    yield from (f"{name}: in {count} parts" for name, count in counts.items() if count > 1)
    found = sum(len(file.file.tensors) for file in files)
    for file in files:
        wanted = _whole(file, _TENSORS)
        if wanted not in (None, found):
            yield f"{file.file.path.name}: {_TENSORS} is {wanted:,}, found {found:,}"


def _whole(file: GgufFile, key: str) -> int | None:
    value = file.metadata.get(key)
    return value.content if isinstance(value, Scalar) and type(value.content) is int else None
