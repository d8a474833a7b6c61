"""Entries of an uncompressed zip archive, laid out byte for byte as torch lays them out.

Every entry's bytes start at a multiple of 64 and are followed by their CRC-32, so all lengths are known before
any content is. Sources: caffe2/serialize/inline_container.cc (padding), third_party/miniz-3.0.2/miniz.c
(mz_zip_writer_add_mem_ex_v2, mz_zip_writer_finalize_archive).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from zipfile import ZipInfo

_ALIGNMENT = 64
_LIMIT = (1 << 32) - 1  # from here on a number goes to the zip64 fields
_UTF8 = 1 << 11
_DESCRIBED_BEHIND = 1 << 3
_LOCAL = struct.Struct("<4s5H3I2H")
_LISTED = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its full name, the byte where its own header starts, and the length of its content."""

    name: str
    start: int
    nbytes: int

    @property
    def header(self) -> bytes:
        """What stands before the content, padding included."""
        # miniz has not counted the stored size yet when it writes this header, and says 0.
        zip64 = self._zip64(stored=0)
        name = self.name.encode()
        padding = -(self.start + _LOCAL.size + len(name) + len(zip64) + 4) % _ALIGNMENT
        extra = zip64 + b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
        fields = _LOCAL.pack(b"PK\x03\x04", 0, self._flags, 0, 0, 0, 0, 0, 0, len(name), len(extra))
        return fields + name + extra

    @property
    def offset(self) -> int:
        """The byte where the content starts."""
        return self.start + len(self.header)

    @property
    def end(self) -> int:
        """The byte behind the entry, where the next may start."""
        return self.offset + self.nbytes + len(self.descriptor(0))

    def descriptor(self, crc32: int) -> bytes:
        """What stands behind the content; nothing when that is empty."""
        if not self.nbytes:
            return b""
        size = struct.Struct("<Q" if self._zip64(self.nbytes) else "<I").pack(self.nbytes)
        return b"PK\x07\x08" + crc32.to_bytes(4, "little") + size * 2

    def listed(self, crc32: int) -> bytes:
        """The entry in the directory at the end."""
        name, extra, size = self.name.encode(), self._zip64(self.nbytes), min(self.nbytes, _LIMIT)
        lengths = (len(name), len(extra), 0)
        start = min(self.start, _LIMIT)
        fields = _LISTED.pack(b"PK\x01\x02", 0, 0, self._flags, 0, 0, 0, crc32, size, size, *lengths, 0, 0, 0, start)
        return fields + name + extra

    @property
    def _flags(self) -> int:
        return _UTF8 | (_DESCRIBED_BEHIND if self.nbytes else 0)

    def _zip64(self, stored: int) -> bytes:
        numbers = [self.nbytes, stored] if self.nbytes >= _LIMIT else []
        numbers += [self.start] if self.start >= _LIMIT else []
        return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""


def derived_offset(info: ZipInfo, following: int) -> int | None:
    """Where an entry's content starts, from the directory alone; None where it is not laid out in torch's way.

    following: the byte where the next entry, or the directory, starts. The content ends there, or before a
    descriptor of 16 or 24 bytes, and only one of these lengths makes it start at a multiple of 64.
    """
    behind = (16, 24) if info.flag_bits & _DESCRIBED_BEHIND else (0,)
    earliest = info.header_offset + _LOCAL.size + len(info.filename.encode())
    starts = [following - length - info.file_size for length in behind]
    fitting = [start for start in starts if start >= earliest and start % _ALIGNMENT == 0]
    return fitting[0] if len(fitting) == 1 else None


def directory(crcs: Mapping[Entry, int], start: int) -> bytes:
    """The table of contents at byte `start`, with what closes the archive; torch always adds the zip64 records."""
    table = b"".join(entry.listed(crc32) for entry, crc32 in crcs.items())
    count, size = len(crcs), len(table)
    end_64 = _END_64.pack(b"PK\x06\x06", _END_64.size - 12, 0x031E, 45, 0, 0, count, count, size, start)
    locator = _LOCATOR.pack(b"PK\x06\x07", 0, start + size, 1)
    shown = min(count, (1 << 16) - 1)
    end = _END.pack(b"PK\x05\x06", 0, 0, shown, shown, min(size, _LIMIT), min(start, _LIMIT), 0)
    return table + end_64 + locator + end


def directory_size(entries: tuple[Entry, ...]) -> int:
    """Bytes of the directory and what closes it, which do not depend on any CRC."""
    return len(directory(dict.fromkeys(entries, 0), 0))
