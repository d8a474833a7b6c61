"""A folder that came from elsewhere, recorded as it is: its `conversion.json` vouches for it from now on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_convert.convert.certificate import made_now
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.claims import NAME
from llama_convert.convert.containers.slices import TensorFile, TensorSlice
from llama_convert.convert.digests import CRC32, SHA256, Extent, all_of, digests, gaps
from llama_convert.convert.origin import known_origin
from llama_convert.convert.outputs import main_type


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """A tensor that can be vouched for by itself. extent: its bytes. crc32: where a `.pth` stores it."""

    name: str
    slice: TensorSlice
    extent: Extent
    crc32: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file to be recorded. name: within the folder. tensors: None where it is none of the opened checkpoint's."""

    name: str
    path: Path
    tensors: tuple[_Tensor, ...] | None

    @property
    def rest(self) -> Extent:
        """What is no tensor's; all of a file without."""
        spans = [span for tensor in self.tensors or () for span in tensor.extent.spans]
        return Extent(SHA256, gaps(spans, self.path.stat().st_size) if spans else all_of(self.path))

    @property
    def wanted(self) -> list[Extent]:
        """What must be read of it."""
        return [self.rest, *(tensor.extent for tensor in self.tensors or () if tensor.crc32 is None)]


def imported_certificate(source: Checkpoint, *, asserted: bool) -> dict[str, Any]:
    """The certificate of a folder that was made elsewhere: what its files are now, and nothing of where from.

    asserted: whether the user said the version; else it is only recorded where no other one fits.
    CRC-32s that a `.pth` stores are taken as they are: they must have been held against the bytes before.
    Cost: one reading of all bytes that no such checksum covers.
    """
    files = list(_files(source))
    values = digests({file.path: file.wanted for file in files})
    tensors = _tensor_entries(files, values)
    origin = known_origin(source.folder)
    certain = {"llama_version": source.version.name} if asserted or len(source.versions) == 1 else {}
    return {
        **made_now(),
        "options": {},
        "source": {
            "imported": True,
            "folder": source.folder.resolve().name,
            "format": source.format.name,
            **certain,
            **(asdict(origin) if origin else {}),
        },
        "target": {
            "format": source.format.name,
            **certain,
            "parameters": source.config.parameters,
            "dtype": main_type((entry["dtype"], entry["shape"]) for entry in tensors.values()),
            "files": {file.name: _file_entry(file, values) for file in files},
        },
        "tensors": tensors,
    }


def _files(source: Checkpoint) -> Iterator[_File]:
    """Every file of the folder but hidden ones and the certificate itself."""
    opened = {file.path: tuple(_tensors(file)) for file in source.files}
    for path in sorted(source.folder.rglob("*")):
        name = path.relative_to(source.folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and str(name) != NAME:
            yield _File(name=name.as_posix(), path=path, tensors=opened.get(path))


def _tensors(file: TensorFile) -> Iterator[_Tensor]:
    """Those whose elements lie in order; of several that share bytes only the first."""
    end = 0
    for name, tensor in sorted(file.tensors.items(), key=lambda item: (item[1].offset, -item[1].nbytes)):
        start, stop = tensor.offset, tensor.offset + tensor.nbytes
        if tensor.strides is None and start >= end:
            yield _Tensor(name=name, slice=tensor, extent=Extent(CRC32, ((start, stop),)), crc32=_stored_crc(tensor))
        end = max(end, stop)


def _stored_crc(tensor: TensorSlice) -> str | None:
    record = tensor.record
    if record is None or record.crc32 is None:
        return None
    return f"{record.crc32:08x}" if (record.offset, record.nbytes) == (tensor.offset, tensor.nbytes) else None


def _file_entry(file: _File, values: Mapping[tuple[Path, Extent], str | None]) -> dict[str, Any]:
    rest = file.rest
    key = "sha256" if rest.spans == all_of(file.path) else "sha256_without_tensors"
    return {"size": file.path.stat().st_size, key: values[file.path, rest]}


def _tensor_entries(files: Sequence[_File], values: Mapping[tuple[Path, Extent], str | None]) -> dict[str, Any]:
    """By name; with its file's where several have parts of it."""
    count = Counter(tensor.name for file in files for tensor in file.tensors or ())
    return {
        tensor.name if count[tensor.name] == 1 else f"{file.name}: {tensor.name}": {
            "dtype": tensor.slice.dtype.label,
            "shape": list(tensor.slice.shape),
            "stored": {
                "file": file.name,
                "offset": tensor.slice.offset,
                "nbytes": tensor.slice.nbytes,
                "crc32": tensor.crc32 or values[file.path, tensor.extent],
            },
        }
        for file in files
        for tensor in file.tensors or ()
    }
