"""`.pth` files laid out before the first byte is written, byte for byte as torch.save writes them.

torch.save needs every tensor in memory. Here all places follow from names, types and shapes, so tensors may be
written in any order, by several threads, while their CRC-32s are taken; what contains a CRC is written last.
Layout of torch 2.7 and later, checked with 2.13 on Linux; torch since 1.6 reads it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

from llama_convert.convert.containers.pickler import contiguous, pickle_state
from llama_convert.convert.containers.serialization_id import serialization_id
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.containers.zip_entries import Entry, directory, directory_size

_NONE: Mapping[str, str] = MappingProxyType({})
_MARKS = {".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
_VERSION = b"3\n"
_ID_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Layout:
    """A file to be: its start, for each tensor in file order where its bytes will start, and what comes last.

    header: everything before the first tensor's bytes. offsets: of tensors with bytes of their own; an alias
    has none. leading: the records in the header with their CRCs. storages: one record per offset.
    closing: the two records behind the tensors.
    """

    header: bytes
    offsets: tuple[tuple[str, int], ...]
    size: int
    leading: tuple[tuple[Entry, int], ...]
    storages: tuple[Entry, ...]
    closing: tuple[Entry, Entry]

    def trailer(self, crcs: Mapping[str, int]) -> list[tuple[int, bytes]]:
        """What is still to be written once the CRC-32 of every tensor in `offsets` is known: (offset, bytes).

        Header, tensors and these pieces fill `size` bytes exactly; the pieces are in file order.
        """
        owners = [name for name, _ in self.offsets]
        found = {entry: crcs[name] if entry.nbytes else 0 for name, entry in zip(owners, self.storages, strict=True)}
        return [*_gaps(found, self.closing[0]), (self.closing[0].offset, self._end(found))]

    def _end(self, crcs: Mapping[Entry, int]) -> bytes:
        version, identity = self.closing
        all_crcs = {**dict(self.leading), **crcs, version: zlib.crc32(_VERSION)}
        digits = serialization_id(
            [entry.name.partition("/")[2] for entry in all_crcs],
            [crc32 for entry, crc32 in all_crcs.items() if entry.nbytes],
        ).encode()
        all_crcs[identity] = zlib.crc32(digits)
        contents = ((version, _VERSION), (identity, digits))
        records = b"".join(entry.header + content + entry.descriptor(all_crcs[entry]) for entry, content in contents)
        return records[len(version.header) :] + directory(all_crcs, identity.end)


def lay_out(
    stem: str, tensors: Sequence[tuple[str, DType, tuple[int, ...]]], aliases: Mapping[str, str] = _NONE
) -> Layout:
    """All of a `.pth` but the tensors' bytes and CRCs, for these (name, dtype, shape) tensors in this order.

    The file holds an OrderedDict, as Module.state_dict gives it, without that dict's `_metadata`.
    stem: what the file calls itself; `archive_name` says what torch would choose.
    aliases: names in `tensors` that have no bytes of their own, to the name whose storage they share: tied
    weights, each a tensor of its own as in a state_dict.
    """
    keys: dict[str, str] = {}
    for name, _, _ in tensors:
        keys.setdefault(aliases.get(name, name), str(len(keys)))
    stored = {name: contiguous(keys[aliases.get(name, name)], dtype, shape) for name, dtype, shape in tensors}
    sizes = {name: dtype.size(prod(shape)) for name, dtype, shape in tensors}
    contents = {"data.pkl": pickle_state(stored), **_MARKS}
    lengths = {name: len(content) for name, content in contents.items()}
    lengths |= {f"data/{key}": sizes[owner] for owner, key in keys.items()}
    lengths |= {"version": len(_VERSION), ".data/serialization_id": _ID_LENGTH}
    entries = tuple(_placed(stem, lengths))
    leading, storages, closing = entries[: len(contents)], entries[len(contents) : -2], (entries[-2], entries[-1])
    return Layout(
        header=_header(dict(zip(leading, contents.values(), strict=True)), entries[len(contents)]),
        offsets=tuple((owner, entry.offset) for owner, entry in zip(keys, storages, strict=True)),
        size=closing[1].end + directory_size(entries),
        leading=tuple((entry, zlib.crc32(content)) for entry, content in zip(leading, contents.values(), strict=True)),
        storages=storages,
        closing=closing,
    )


def archive_name(file_name: str) -> str:
    """What torch.save calls the folder inside a file of this name: the name without its last suffix.

    A name that is not ASCII becomes `archive`.
    """
    stem = file_name.rpartition(".")[0] or file_name
    return stem if file_name.isascii() else "archive"


def _placed(stem: str, lengths: Mapping[str, int]) -> Iterator[Entry]:
    position = 0
    for name, nbytes in lengths.items():
        entry = Entry(f"{stem}/{name}", position, nbytes)
        position = entry.end
        yield entry


def _header(contents: Mapping[Entry, bytes], following: Entry) -> bytes:
    records = (entry.header + data + entry.descriptor(zlib.crc32(data)) for entry, data in contents.items())
    return b"".join(records) + following.header


def _gaps(crcs: Mapping[Entry, int], last: Entry) -> Iterator[tuple[int, bytes]]:
    """Between a record's content and the next one's: its own CRC, the next one's header."""
    following = [*crcs, last][1:]
    for (entry, crc32), after in zip(crcs.items(), following, strict=True):
        yield entry.offset + entry.nbytes, entry.descriptor(crc32) + after.header
