"""The 40 digits by which torch tells one `.pth` from another: `.data/serialization_id`.

The first 20 are combined hashes of the records' names, the last 20 their combined CRC-32s. The names are taken
in the order in which a std::unordered_set of GNU's C++ library gives them back, which is part of the result:
torch on Linux writes these digits, torch elsewhere others. torch.load does not read them.
Sources: caffe2/serialize/inline_container.cc, c10/util/hash.h; libstdc++ bits/hashtable.h,
libsupc++/hash_bytes.cc (MurmurHash64A).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_WORD = (1 << 64) - 1
_SEED = 0xC70F6907
_FACTOR = 0xC6A4A7935BD1E995
# How many buckets the set has as it grows; each is full with as many names, and the names then move to the next.
_BUCKETS = (13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753, 42043, 85229, 172933, 351061, 712697, 1447153)


def serialization_id(names: Sequence[str], crcs: Iterable[int]) -> str:
    """The 40 digits for records of these names, and the CRC-32s of those that are not empty, in file order.

    torch takes content that starts with the bytes PK 7 8 for a CRC of its own; its last digits then differ.
    """
    return f"{_combined(_set_order([_hash(name.encode()) for name in names])):020}{_combined(crcs):020}"


def _combined(values: Iterable[int]) -> int:
    total = 0
    for value in values:
        total ^= (value + 0x9E3779B9 + (total << 6) + (total >> 2)) & _WORD
    return total


def _hash(data: bytes) -> int:
    whole = len(data) - len(data) % 8
    value = _SEED ^ (len(data) * _FACTOR & _WORD)
    for start in range(0, whole, 8):
        word = int.from_bytes(data[start : start + 8], "little") * _FACTOR & _WORD
        value = (value ^ (_folded(word) * _FACTOR & _WORD)) * _FACTOR & _WORD
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * _FACTOR & _WORD
    return _folded(_folded(value) * _FACTOR & _WORD)


def _folded(word: int) -> int:
    return word ^ (word >> 47)


def _set_order(hashes: list[int]) -> list[int]:
    """The hashes as the set walks over them after they were put in one by one."""
    order: list[int] = []
    for buckets in _BUCKETS:
        order = _walk([*order, *hashes[len(order) : buckets]], buckets)
        if len(order) == len(hashes):
            return order
    raise OverflowError(f"{len(hashes):,} records in one file")


def _walk(hashes: list[int], buckets: int) -> list[int]:
    """A bucket's first comer opens it before all others; whoever comes later goes to the head of the bucket."""
    contents: dict[int, list[int]] = {}
    for value in hashes:
        contents.setdefault(value % buckets, []).append(value)
    return [value for bucket in reversed(contents.values()) for value in reversed(bucket)]
