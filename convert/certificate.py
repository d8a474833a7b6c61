"""`conversion.json`: what a folder was made of and how, so that it can be checked again later."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llama_convert.convert.checklist import read_checklist
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.claims import NAME, pad_of
from llama_convert.convert.containers.slices import TensorFile
from llama_convert.convert.expressions import describe, slices
from llama_convert.convert.outputs import Step
from llama_convert.convert.plan import Plan

# What took part: numpy moved rows; torch, where values were cast.
_VERSIONS = ("llama-convert", "numpy", "torch")
_LARGEST_HASHED = 64 << 20  # bytes; larger files are known by the digest of their table of contents


def certificate(plan: Plan, options: Mapping[str, Any], records_checked: int, folder: Path) -> dict[str, Any]:
    """The certificate of a finished run. No absolute path is in it: the folder may be published.

    records_checked: how many `.pth` records were held against their CRC-32; 0 when none was.
    """
    return {
        "tool": _tool(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "options": dict(options),
        "source": _source(plan.source, records_checked),
        **_vocabulary(plan.source),
        "target": {"format": plan.target, "files": _written(folder)},
        "tensors": _tensors(plan),
    }


def write_certificate(folder: Path, values: Mapping[str, Any]) -> None:
    """Write it beside the weights."""
    (folder / NAME).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _tool() -> dict[str, str]:
    return {**{name: version(name) for name in _VERSIONS if _installed(name)}, "python": platform.python_version()}


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _source(source: Checkpoint, records_checked: int) -> dict[str, Any]:
    small = [path for path in (source.folder / "params.json", source.tokenizer and source.tokenizer.path) if path]
    return {
        "folder": source.path.resolve().name,
        "format": source.format.name,
        "llama_version": source.version.name,
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


def _written(folder: Path) -> dict[str, Any]:
    paths: Iterable[Path] = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): _small_file(path)
        if path.stat().st_size <= _LARGEST_HASHED
        else {"size": path.stat().st_size}
        for path in paths
    }


def _tensors(plan: Plan) -> dict[str, Any]:
    """What every tensor is made of, by its name; with its file's where several files have parts of it."""
    count = Counter(step.name for step in plan.steps)
    return {
        step.name if count[step.name] == 1 else f"{file.name}: {step.name}": _tensor(plan.source, step)
        for file in plan.files
        for step in file.steps
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
