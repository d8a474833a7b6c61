"""The files level: every checksum that a side's files carry, or that came with them, held against their bytes.

No other level sees a changed byte in a side that is looked at alone. A side without any checksum is never said to
have passed: safetensors and GGUF have none of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_convert.convert.checklist import read_checklist
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.claims import NAME as CERTIFICATE
from llama_convert.convert.containers import WEIGHTS
from llama_convert.convert.containers.slices import TensorFile
from llama_convert.convert.digests import CRC32, MD5, SHA256, Extent, all_of
from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.verify.certified import certificate_statements, differences, read_certificate
from llama_convert.verify.downloads import hub_statements
from llama_convert.verify.report import LevelResult, judged, not_checked
from llama_convert.verify.statements import Kind, Statement, broken, counts

NAME = "files"
_NOTHING = "no checksums in these files"
_HELP = "a checklist.chk, the Hub's cache or a conversion.json beside them would have some"
_NOUNS = {
    Kind.RECORDS: "CRC-32",
    Kind.CHECKLIST: "digest",
    Kind.HUB: "digest",
    Kind.CERTIFICATE: "digest",
}
_ALGORITHMS = {32: MD5, 64: SHA256}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One side: the statements about its files, and what is wrong without reading a weight."""

    statements: tuple[Statement, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check_files(a: Checkpoint, b: Checkpoint | None) -> LevelResult:
    """Whether the files of each side are what their own checksums say. Cost: one reading of what has some."""
    letters = [("", a)] if b is None else [("A", a), ("B", b)]
    sides = [(letter, checkpoint, _side(checkpoint)) for letter, checkpoint in letters]
    findings: list[str] = []
    for letter, checkpoint, side in sides:
        name = f"{checkpoint.path}: " if letter else ""
        findings += [f"{name}{problem}" for problem in (*side.problems, *broken(side.statements))]
    measures = {key: value for letter, _, side in sides for key, value in _measures(letter, side).items()}
    figures = "; ".join(f"{letter}: {_figures(side)}" if letter else _figures(side) for letter, _, side in sides)
    if not findings and not any(side.statements for _, _, side in sides):
        return not_checked(NAME, f"{_NOTHING}; {_HELP}")
    warnings = tuple(warning for _, _, side in sides for warning in side.warnings)
    return judged(NAME, figures, tuple(findings), warnings, measures=measures)


def whole_digests(checkpoint: Checkpoint) -> dict[Path, Statement]:
    """What is said of all of a file's bytes, where something says it; nothing is read but what says so."""
    statements = (found for found in _side(checkpoint).statements if found.extent.spans == all_of(found.path))
    return {found.path: found for found in statements}


def _figures(side: _Side) -> str:
    found = counts(side.statements)
    return ", ".join(kind.value.format(counted(count, _NOUNS[kind])) for kind, count in found.items()) or _NOTHING


def _measures(letter: str, side: _Side) -> dict[str, int]:
    """Like `records`, or `a_records` where there are two sides."""
    prefix = f"{letter.lower()}_" if letter else ""
    found = counts(side.statements)
    return {f"{prefix}{kind.name.lower()}": found.get(kind, 0) for kind in Kind}


def _side(checkpoint: Checkpoint) -> _Side:
    paths = _paths(checkpoint)
    listed, missing = _listed(checkpoint, paths)
    certified, changed, warnings = _certified(checkpoint)
    statements = (
        *(found for file in checkpoint.files for found in _records(file)),
        *listed,
        *hub_statements(paths),
        *certified,
    )
    problems = (*missing, *_index_problems(checkpoint), *changed)
    return _Side(statements=statements, problems=problems, warnings=warnings)


def _paths(checkpoint: Checkpoint) -> list[Path]:
    """The checkpoint's files: its weights, its tokenizer, what lies beside them; not another format's weights."""
    used = [file.path for file in checkpoint.files]
    if checkpoint.tokenizer is not None:
        used.append(checkpoint.tokenizer.path)
    beside = sorted(checkpoint.path.iterdir()) if checkpoint.path.is_dir() else []
    used += [path for path in beside if path.is_file() and path.suffix not in WEIGHTS]
    return list(dict.fromkeys(used))


def _records(file: TensorFile) -> Iterator[Statement]:
    names: dict[str, list[str]] = {}
    for name, tensor in file.tensors.items():
        if tensor.record is not None:
            names.setdefault(tensor.record.name, []).append(name)
    for record in file.records:
        holding = f" ({', '.join(names[record.name])})" if record.name in names else ""
        yield Statement(
            kind=Kind.RECORDS,
            path=file.path,
            extent=Extent(CRC32, ((record.offset, record.offset + record.nbytes),)),
            wanted=f"{record.crc32:08x}",
            said_by="the file itself",
            what=f"record {record.name} at offset {record.offset:,}{holding}",
        )


# --- checklist.chk -------------------------------------------------------------------------------


def _listed(checkpoint: Checkpoint, paths: Sequence[Path]) -> tuple[list[Statement], list[str]]:
    """What the checklist says of every file that is there, and the files that are not.

    The tokenizer may lie in the folder above. Of a checkpoint that is one file, only that file counts.
    """
    digests = read_checklist(checkpoint.folder)
    known = {path.name: path for path in paths}
    statements, missing = [], []
    for name, wanted in sorted(digests.items()):
        path = checkpoint.folder / name
        if not path.is_file() or not checkpoint.path.is_dir():
            path = known.get(name, path)
        if path.is_file() and (checkpoint.path.is_dir() or path in paths):
            statements.append(_by_checklist(path, wanted))
        elif checkpoint.path.is_dir():
            missing.append(f"{name} is missing, checklist.chk lists it")
    return statements, missing


def _by_checklist(path: Path, wanted: str) -> Statement:
    extent = Extent(_ALGORITHMS[len(wanted)], all_of(path))
    return Statement(kind=Kind.CHECKLIST, path=path, extent=extent, wanted=wanted, said_by="checklist.chk")


# --- conversion.json -----------------------------------------------------------------------------


def _certified(checkpoint: Checkpoint) -> tuple[list[Statement], list[str], tuple[str, ...]]:
    """What the folder's certificate says, what contradicts it at sight, and why it could not be used."""
    if not (checkpoint.folder / CERTIFICATE).is_file():
        return [], [], ()
    try:
        certificate = read_certificate(checkpoint.folder)
    except CheckpointError as error:
        return [], [error.summary], ()
    if not certificate.complete:
        return [], [], (f"{checkpoint.folder / CERTIFICATE}: of an older version, without digests of the tensors",)
    statements = list(certificate_statements(certificate))
    if checkpoint.path.is_dir():
        return statements, list(differences(certificate)), ()
    used = {file.path for file in checkpoint.files}
    return [statement for statement in statements if statement.path in used], [], ()


# --- model.safetensors.index.json ----------------------------------------------------------------


def _index_problems(checkpoint: Checkpoint) -> Iterator[str]:
    """Where an index puts a tensor into another file than has it: readers differ in whom they believe."""
    if not checkpoint.path.is_dir():
        return
    places = {name: file.path.name for file in checkpoint.files for name in file.tensors}
    used = {file.path.name for file in checkpoint.files}
    for path in sorted(checkpoint.path.glob("*.index.json")):
        repeated, index = _index(path)
        if not used & set(index.values()):
            continue  # of weights in another format
        yield from (f"{path.name}: {name} is given twice" for name in repeated)
        for name in sorted(index.keys() | places.keys()):
            found, wanted = places.get(name, "no file"), index.get(name, "no file")
            if found != wanted and not checkpoint.format.ignores(name):
                yield f"{path.name}: {name} is in {found}, the index says in {wanted}"


def _index(path: Path) -> tuple[list[str], Mapping[str, str]]:
    """Names that the index has twice, of which JSON readers keep the last without a word; and file by name."""
    repeated: list[str] = []

    def entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        names = [name for name, _ in pairs]
        repeated.extend(sorted(name for name in found if names.count(name) > 1) if len(found) < len(pairs) else ())
        return found

    try:
        values = json.loads(path.read_bytes(), object_pairs_hook=entries)
        return repeated, {str(name): str(file) for name, file in values["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [], {}  # the format's own reader refuses the index that it uses
