"""`conversion.json`: what a folder was made of and how, so that it can be checked again later."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llama_convert.convert.checklist import read_checklist
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.claims import NAME, pad_of
from llama_convert.convert.containers.slices import TensorFile
from llama_convert.convert.digests import SHA256, Extent, all_of, gaps, read_digests
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.expressions import describe, slices
from llama_convert.convert.json_files import read_object
from llama_convert.convert.origin import Origin, known_origin, name_of
from llama_convert.convert.outputs import Step, WeightFile, main_type
from llama_convert.convert.plan import Plan

# What took part: numpy moved rows; torch, where values were cast.
_VERSIONS = ("llama-convert", "numpy", "torch")
# Bytes; larger weight files are not read again for a digest of all of it: their tensors' CRC-32s are taken as they
# are written.
_LARGEST_HASHED = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an older certificate says of weight files that stay as they are: entries by file, and by tensor."""

    files: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)


def kept_entries(folder: Path, names: Iterable[str]) -> Kept:
    """The entries of these weight files in the folder's certificate; their sizes alone where it has none of them.

    They are not read for it: a file of many gigabytes that nobody changed is what it was.
    """
    try:
        values = read_object(folder / NAME)
        files = {name: values["target"]["files"][name] for name in names}
        tensors = {name: entry for name, entry in values["tensors"].items() if entry["stored"]["file"] in files}
    except (CheckpointError, OSError, KeyError, TypeError, AttributeError):
        return Kept(files={name: {"size": (folder / name).stat().st_size} for name in names})
    return Kept(files=files, tensors=tensors)


def certificate(
    plan: Plan,
    options: Mapping[str, Any],
    records_checked: int,
    crc32s: Mapping[tuple[int, int], int],
    folder: Path,
    kept: Kept | None = None,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """The certificate of a finished run. No absolute path is in it: the folder may be published.

    records_checked: how many `.pth` records were held against their CRC-32; 0 when none was. crc32s: of each
    output tensor, by the numbers of its file and of its step in the plan. kept: of weight files that were taken as
    they are. origin: of the source; None for what its own files say.
    """
    kept = kept or Kept()
    tensors = {**kept.tensors, **_tensors(plan, crc32s)}
    return {
        **made_now(),
        "options": dict(options),
        "source": _source(plan.source, records_checked, origin or known_origin(plan.source.folder)),
        **_vocabulary(plan.source),
        "target": _target(plan, folder, kept, tensors),
        "tensors": tensors,
    }


def write_certificate(folder: Path, values: Mapping[str, Any]) -> None:
    """Write it beside the weights. Nobody sees half a file."""
    _replace(folder, values)


def add_verdict(folder: Path, values: Mapping[str, Any]) -> None:
    """Write into the folder's certificate what a verification found, with its date, in place of an older one.

    Nobody sees half a file. Raises CheckpointError where there is no certificate.
    """
    _replace(folder, {**read_object(folder / NAME), "verified": {**made_now(), **values}})


def _replace(folder: Path, values: Mapping[str, Any]) -> None:
    path, partial = folder / NAME, folder / f".{NAME}.partial"
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def made_now() -> dict[str, Any]:
    """What every entry of a certificate begins with: by which versions, and when."""
    return {"tool": _tool(), "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def _tool() -> dict[str, str]:
    return {**{name: version(name) for name in _VERSIONS if _installed(name)}, "python": platform.python_version()}


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _source(source: Checkpoint, records_checked: int, origin: Origin | None) -> dict[str, Any]:
    small = [path for path in (source.folder / "params.json", source.tokenizer and source.tokenizer.path) if path]
    return {
        "folder": name_of(source.path),
        "format": source.format.name,
        "llama_version": source.version.name,
        **(asdict(origin) if origin else {}),
        "crc32_records_checked": records_checked,
        "files": {file.path.name: _weight_file(source, file) for file in source.files}
        | {path.name: _small_file(path) for path in small if path.is_file()},
    }


def _vocabulary(source: Checkpoint) -> dict[str, Any]:
    """What was changed in the vocabulary, and the id to pad with, for which not every format has a word."""
    change, pad = source.change, pad_of(source)
    if change is None:
        return {} if pad is None else {"vocabulary": {"pad": pad}}
    new = [{"id": token.id, "content": token.text, "special": token.special} for token in change.tokens]
    return {"vocabulary": {"pad": pad, "rows": change.rows, "new": new, "why": change.why}}


def _weight_file(source: Checkpoint, file: TensorFile) -> dict[str, Any]:
    """Large files are not read a second time for a digest: their table of contents holds every CRC-32."""
    values: dict[str, Any] = {"size": file.size}
    if file.index_sha256 is not None:
        values["zip_directory_sha256"] = file.index_sha256
    if listed := read_checklist(source.folder).get(file.path.name):
        values["checklist"] = listed
    return values


def _small_file(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _written(plan: Plan, folder: Path, kept: Kept) -> dict[str, Any]:
    weights = {file.name: file for file in plan.files}
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {
        name: kept.files[name]
        if name in kept.files
        else _weights(folder, weights[name])
        if name in weights
        else _small_file(folder / name)
        for name in names
    }


def _target(plan: Plan, folder: Path, kept: Kept, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What was written. dtype: of most of its values; left out where nothing says what kept files hold."""
    source = plan.source
    described = {entry["stored"]["file"] for entry in tensors.values()} >= set(kept.files)
    stored = [(entry["dtype"], entry["shape"]) for entry in tensors.values()]
    return {
        "format": plan.target,
        "llama_version": source.version.name,
        "parameters": source.config.parameters,
        **({"dtype": main_type(stored)} if stored and described else {}),
        "files": _written(plan, folder, kept),
    }


def _weights(folder: Path, file: WeightFile) -> dict[str, Any]:
    """What a weight file holds beside its tensors, which have checksums of their own; a small one also as a whole."""
    path = folder / file.name
    rest = Extent(SHA256, gaps(((step.offset, step.offset + step.nbytes) for step in file.steps), file.size))
    everything = Extent(SHA256, all_of(path))
    small = file.size <= _LARGEST_HASHED
    found = read_digests(path, [rest, everything] if small else [rest])
    values = {"size": file.size, "sha256_without_tensors": found[rest]}
    return values | {"sha256": found[everything]} if small else values


def _tensors(plan: Plan, crc32s: Mapping[tuple[int, int], int]) -> dict[str, Any]:
    """What every tensor is made of and where it is, by its name; with its file's where several have parts of it."""
    count = Counter(step.name for step in plan.steps)
    return {
        step.name if count[step.name] == 1 else f"{file.name}: {step.name}": {
            **_tensor(plan.source, step),
            "stored": {
                "file": file.name,
                "offset": step.offset,
                "nbytes": step.nbytes,
                "crc32": f"{crc32s[file_number, number]:08x}",
            },
        }
        for file_number, file in enumerate(plan.files)
        for number, step in enumerate(file.steps)
    }


def _tensor(source: Checkpoint, step: Step) -> dict[str, Any]:
    files = dict.fromkeys(tensor.file.name for tensor in slices(step.expression))
    return {
        "from": list(dict.fromkeys(source.format.name_of(weight) for weight in step.tensor.weights)),
        "files": list(files),
        "done": describe(step.expression),
        "dtype": step.expression.dtype.label,
        "shape": list(step.expression.shape),
    }
