"""What a checkpoint is, in figures, without reading its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import LlamaConfig
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.formats import open_checkpoint
from llama_convert.convert.outputs import main_type


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSummary:
    """One stored tensor: its name in its file, and whether it is one of the model's."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    role: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What `inspect` shows.

    versions: the Llama versions the files fit, likeliest first. nbytes: of the weight files on disk.
    kv_copies: how often each kv head is stored. tokenizer: kind and path, None without one.
    """

    path: Path
    format: str
    versions: tuple[str, ...]
    config: LlamaConfig
    dtype: DType
    dtypes: tuple[str, ...]
    shards: int
    nbytes: int
    kv_copies: int
    tokenizer: tuple[str, Path] | None
    tensors: tuple[TensorSummary, ...]

    @property
    def main_dtype(self) -> str:
        """The type in which most values are stored."""
        return main_type((tensor.dtype, tensor.shape) for tensor in self.tensors)

    def memory(self, dtype: DType) -> int:
        """Bytes the weights take in memory in this type; a tied head counts once."""
        return self.config.parameters * dtype.nbytes

    def as_json(self, *, tensors: bool) -> dict[str, Any]:
        """The same as plain data; sizes in bytes."""
        values: dict[str, Any] = {
            "path": str(self.path),
            "format": self.format,
            "llama_version": self.versions[0],
            "llama_versions_that_fit": list(self.versions),
            "parameters": self.config.parameters,
            "config": asdict(self.config),
            "dtype": self.dtype.label,
            "dtypes": list(self.dtypes),
            "shards": self.shards,
            "nbytes": self.nbytes,
            "kv_copies": self.kv_copies,
            "memory": {dtype.label: self.memory(dtype) for dtype in (DType.FLOAT32, DType.BFLOAT16)},
            "tokenizer": {"kind": self.tokenizer[0], "path": str(self.tokenizer[1])} if self.tokenizer else None,
        }
        return values | ({"tensors": [asdict(tensor) for tensor in self.tensors]} if tensors else {})


def inspect_checkpoint(
    path: Path, llama_version: str | None = None, assume: Mapping[str, str] | None = None
) -> Inspection:
    """What the checkpoint in this folder or file is. Raises what `open_checkpoint` raises."""
    checkpoint = open_checkpoint(path, llama_version, assume)
    tensors = tuple(
        TensorSummary(
            name=name,
            file=file.path.name,
            dtype=tensor.dtype.label,
            shape=tensor.shape,
            nbytes=tensor.nbytes,
            offset=tensor.offset,
            role=", ".join(map(str, checkpoint.format.weights_of(name))) or None,
        )
        for file in checkpoint.files
        for name, tensor in file.tensors.items()
    )
    tokenizer = checkpoint.tokenizer
    return Inspection(
        path=path,
        format=checkpoint.format.name,
        versions=tuple(version.name for version in checkpoint.versions),
        config=checkpoint.config,
        dtype=checkpoint.dtype,
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors})),
        shards=len(checkpoint.files),
        nbytes=sum(file.size for file in checkpoint.files),
        kv_copies=checkpoint.kv_copies,
        tokenizer=(tokenizer.kind.value, tokenizer.path) if tokenizer else None,
        tensors=tensors,
    )
