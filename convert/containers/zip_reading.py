"""The zip archive that a `.pth` file is, by its directory: where every record's bytes are, and their CRC-32s."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_convert.convert.containers.slices import ByteSource, Record
from llama_convert.convert.containers.sources import is_far
from llama_convert.convert.containers.zip_entries import derived_offset
from llama_convert.convert.errors import CheckpointError

ZIP_START = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, 22 bytes also found in the directory, name and extra lengths


@dataclass(frozen=True, slots=True)
class Archive:
    """records: by name. directory: its bytes, and all that follows them."""

    records: Mapping[str, Record]
    directory: bytes


def read_archive(source: ByteSource) -> Archive:
    """The records of an archive that torch.save may have written; none is read.

    Raises CheckpointError: no directory, records twice, compressed, or not where the directory says.
    """
    archive = _open_zip(source)
    records = _records(source, _entries(source, archive), archive.start_dir)
    return Archive(records, source.read(archive.start_dir, source.size - archive.start_dir))


def failed(source: ByteSource, what: str, advice: str = "Fetch the file again.") -> CheckpointError:
    """What is wrong with the file, as an error."""
    return CheckpointError(f"{source.path}: {what}", advice=advice)


class Reader(io.RawIOBase):
    """A byte source as the seekable file that zipfile and pickletools want."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._size = source.size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("seek before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _open_zip(source: ByteSource) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BufferedReader(Reader(source)))
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        NotImplementedError,
        OverflowError,
        struct.error,
        UnicodeError,
    ) as error:
        raise failed(
            source,
            f"truncated: it starts as a .pth of {source.size:,} bytes but has no table of contents at its end",
            "The download or copy was cut short; fetch the file again.",
        ) from error


def _entries(source: ByteSource, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in entries:
            raise failed(source, f"holds two records named {info.filename}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise failed(
                source,
                f"record {info.filename} is compressed",
                "torch.save never compresses: unpack and save it again.",
            )
        entries[info.filename] = info
    return entries


def _records(source: ByteSource, entries: Mapping[str, zipfile.ZipInfo], end: int) -> dict[str, Record]:
    """Where every record's bytes are; end: where the directory starts.

    Of a file that is far away the directory alone is believed: the headers lie gigabytes apart. The pickle would
    not be one, were that wrong.
    """
    starts = sorted(info.header_offset for info in entries.values())
    following = dict(zip(starts, [*starts[1:], end], strict=True)) if is_far(source.path) else {}
    return {name: _record(source, info, following.get(info.header_offset)) for name, info in entries.items()}


def _record(source: ByteSource, info: zipfile.ZipInfo, following: int | None) -> Record:
    """A record's place: `following` tells it where that is the next one's start, else the record's own header."""
    derived = None if following is None else derived_offset(info, following)
    offset = _told_offset(source, info) if derived is None else derived
    if offset + info.file_size > source.size:
        raise failed(source, f"truncated: record {info.filename} ends beyond the file's {source.size:,} bytes")
    # torch.serialization.set_crc32_options(False) stores zeros: there is nothing to check then.
    crc32 = info.CRC if info.CRC or not info.file_size else None
    return Record(file=source.path, name=info.filename, offset=offset, nbytes=info.file_size, crc32=crc32)


def _told_offset(source: ByteSource, info: zipfile.ZipInfo) -> int:
    """A record's bytes start behind its local header, whose length only the header itself tells."""
    inside = 0 <= info.header_offset < source.size
    header = source.read(info.header_offset, _LOCAL_HEADER.size) if inside else b""
    if len(header) < _LOCAL_HEADER.size or not header.startswith(ZIP_START):
        raise failed(
            source,
            f"record {info.filename} is not where the table of contents says (offset {info.header_offset:,})",
        )
    name_length, extra_length = map(int, _LOCAL_HEADER.unpack(header)[1:])
    return info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
