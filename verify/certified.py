"""A converted folder held against its own conversion.json, without the source; and verdicts, written there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llama_convert.convert.certificate import add_verdict
from llama_convert.convert.claims import NAME as FILE
from llama_convert.convert.containers import WEIGHTS
from llama_convert.convert.digests import CRC32, SHA256, Extent, Span, all_of, gaps
from llama_convert.convert.errors import CheckpointError, UsageError, counted
from llama_convert.convert.json_files import read_object
from llama_convert.convert.origin import name_of
from llama_convert.verify.report import LevelResult, Report, judged
from llama_convert.verify.statements import Kind, Statement, broken

NAME = "certificate"
_CONVERT_AGAIN = "Convert again: the new folder can be checked."


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A tensor as the certificate has it: its bytes in its file, and their CRC-32."""

    name: str
    span: Span
    crc32: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file as the certificate has it. rest: SHA-256 of what is no tensor's; sha256: of all of a small file."""

    size: int
    sha256: str | None
    rest: str | None
    tensors: tuple[TensorEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a folder's conversion.json says of the folder's files, by name.

    complete: False for one of an older version, which had no digests of tensors; files is then empty.
    verified: what `record_verdict` wrote, if anything.
    """

    folder: Path
    complete: bool
    files: Mapping[str, FileEntry]
    verified: Mapping[str, Any] | None = None

    @property
    def tensors(self) -> int:
        """How many tensors it names."""
        return sum(len(written.tensors) for written in self.files.values())


def check_certificate(folder: Path) -> LevelResult:
    """Whether every file and every tensor of the folder is what its conversion.json says was written.

    Nothing else is needed, and the folder may have been moved. A certificate is no signature: who changes
    the files can change it too.
    Raises UsageError: no folder. CheckpointError: no certificate, or one that is unreadable or of an older
    version, without digests. Cost: one reading of all files.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", advice="Give the folder that conversion.json is in.")
    certificate = read_certificate(folder)
    if not certificate.complete:
        raise CheckpointError(
            f"{folder / FILE}: of an older version, without digests of the tensors", advice=_CONVERT_AGAIN
        )
    figures = f"{counted(len(certificate.files), 'file')} and {counted(certificate.tensors, 'tensor')} of {FILE}"
    findings = (*differences(certificate), *broken(list(certificate_statements(certificate))))
    others = sorted(name for name in _others(certificate) if not name.endswith(WEIGHTS))
    return judged(
        NAME,
        figures,
        findings,
        (f"not in {FILE}: {', '.join(others)}",) if others else (),
        measures={"files": len(certificate.files), "tensors": certificate.tensors},
    )


def record_verdict(folder: Path, report: Report) -> None:
    """Write into the folder's conversion.json what a verification of it found, in place of what stood there.

    Of A only the folder's name is kept. Raises CheckpointError where there is no certificate.
    """
    levels = report.as_json()["levels"]
    assert isinstance(levels, list)
    kept = ("name", "verdict", "figures", "measures", "gate")
    add_verdict(
        folder,
        {
            "a": name_of(report.a),
            "ok": report.ok,
            "levels": [{name: level[name] for name in kept} for level in levels],
        },
    )


def made_of(folder: Path, source: Path) -> bool:
    """Whether the folder has a certificate, and that names the source's folder as what it was made of."""
    if not (folder / FILE).is_file():
        return False
    named = read_object(folder / FILE).get("source")
    return isinstance(named, Mapping) and named.get("folder") == name_of(source)


def read_certificate(folder: Path) -> Certificate:
    """The folder's certificate. CheckpointError: missing, unreadable, or no certificate."""
    values = read_object(folder / FILE)
    try:
        return _certificate(folder, values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / FILE}: damaged: {error!r:.200}", advice=_CONVERT_AGAIN) from error


def _certificate(folder: Path, values: Mapping[str, Any]) -> Certificate:
    files, tensors, verified = values["target"]["files"], values["tensors"], values.get("verified")
    digested = all({"sha256", "sha256_without_tensors"} & entry.keys() for entry in files.values())
    complete = digested and all("stored" in tensor for tensor in tensors.values())
    stored: dict[str, list[TensorEntry]] = {_inside(name): [] for name in files}
    for name, tensor in tensors.items() if complete else ():
        file, found = _stored(name, tensor["stored"])
        stored[file].append(found)
    return Certificate(
        folder=folder,
        complete=complete,
        files={name: _written(entry, stored[name]) for name, entry in files.items()} if complete else {},
        verified=None if verified is None else dict(verified, levels=[dict(level) for level in verified["levels"]]),
    )


def _inside(name: str) -> str:
    """The name, which must not lead out of the folder."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"{name} is not in the folder")
    return name


def _stored(name: str, place: Mapping[str, Any]) -> tuple[str, TensorEntry]:
    start, nbytes, file = _size(place["offset"]), _size(place["nbytes"]), str(place["file"])
    name = name.removeprefix(f"{file}: ")  # it is there where several files have parts of the tensor
    return file, TensorEntry(name=name, span=(start, start + nbytes), crc32=str(place["crc32"]))


def _written(entry: Mapping[str, Any], tensors: list[TensorEntry]) -> FileEntry:
    return FileEntry(
        size=_size(entry["size"]),
        sha256=entry.get("sha256"),
        rest=entry.get("sha256_without_tensors"),
        tensors=tuple(tensors),
    )


def _size(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is no size")
    return number


def differences(certificate: Certificate) -> Iterator[str]:
    """Files that are missing or of another size, and files of weights that the certificate does not know."""
    for name, written in certificate.files.items():
        path = certificate.folder / name
        if not path.is_file():
            yield f"{name} is missing, {FILE} has it"
        elif path.stat().st_size != written.size:
            yield f"{name} has {path.stat().st_size:,} bytes, {FILE} says {written.size:,}"
    # A repository may hold another checkpoint in a folder of its own, such as original/.
    places = {str(PurePosixPath(name).parent) for name, written in certificate.files.items() if written.tensors}
    for name in sorted(_others(certificate)):
        if name.endswith(WEIGHTS) and str(PurePosixPath(name).parent) in places:
            yield f"{name} may be taken for weights, but {FILE} does not have it"


def _others(certificate: Certificate) -> set[str]:
    """Files that the certificate does not name; hidden ones are no part of a model."""
    paths = [path.relative_to(certificate.folder) for path in certificate.folder.rglob("*") if path.is_file()]
    shown = {path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)}
    return shown - certificate.files.keys() - {FILE}


def certificate_statements(certificate: Certificate) -> Iterator[Statement]:
    """What the certificate says of the bytes of the files that are there."""
    for name, written in certificate.files.items():
        path = certificate.folder / name
        if path.is_file():
            yield from _of_file(path, written)


def _of_file(path: Path, written: FileEntry) -> Iterator[Statement]:
    for tensor in written.tensors:
        what = f"{tensor.name} at offset {tensor.span[0]:,}"
        yield _statement(path, Extent(CRC32, (tensor.span,)), tensor.crc32, what)
    if written.rest is not None:
        rest = gaps((tensor.span for tensor in written.tensors), written.size)
        yield _statement(path, Extent(SHA256, rest), written.rest, "all but its tensors (header, padding)")
    if written.sha256 is not None and path.stat().st_size == written.size:
        yield _statement(path, Extent(SHA256, all_of(path)), written.sha256)


def _statement(path: Path, extent: Extent, wanted: str, what: str = "") -> Statement:
    return Statement(kind=Kind.CERTIFICATE, path=path, extent=extent, wanted=wanted, said_by=FILE, what=what)
