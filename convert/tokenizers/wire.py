"""The wire format of protocol buffers, as much of it as a SentencePiece model uses.

Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack, unpack_from
from typing import NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
WIRE_NAMES = {VARINT: "an integer", FIXED64: "8 bytes", LENGTH: "a string or message", FIXED32: "4 bytes"}
LONGEST_VARINT = 10  # 64 bits, 7 to a byte


class WireError(ValueError):
    """The bytes are no protobuf message; `offset` is where they stop to be one, in bytes."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class Field(NamedTuple):
    """One field as it lies in a message: its number, its value, and the offset of its tag."""

    number: int
    value: int | bytes
    wire_type: int
    offset: int

    def integer(self) -> int:
        """The value as a signed 64-bit integer; bool and enum fields are integers too."""
        if self.wire_type != VARINT or isinstance(self.value, bytes):
            raise self._wrong(VARINT)
        return self.value - (1 << 64) if self.value >= 1 << 63 else self.value

    def content(self) -> bytes:
        """The value as the bytes of a string or of a message inside."""
        if not isinstance(self.value, bytes) or self.wire_type != LENGTH:
            raise self._wrong(LENGTH)
        return self.value

    def float32(self) -> float:
        """The value as an IEEE float of 4 bytes."""
        if not isinstance(self.value, bytes) or self.wire_type != FIXED32:
            raise self._wrong(FIXED32)
        number: float = unpack_from("<f", self.value)[0]
        return number

    def _wrong(self, wanted: int) -> WireError:
        found = WIRE_NAMES[self.wire_type]
        return WireError(f"field {self.number} is {found}, not {WIRE_NAMES[wanted]}", self.offset)


def read_varint(data: bytes, start: int) -> tuple[int, int]:
    """The integer whose 7-bit groups start at `start`, lowest first, and the offset behind it."""
    value = 0
    for index in range(LONGEST_VARINT):
        if start + index >= len(data):
            raise WireError("the data ends inside an integer", start)
        byte = data[start + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, start + index + 1
    raise WireError("an integer has more than 64 bits", start)


def fields(message: bytes) -> Iterator[Field]:
    """Every field of a message in file order, unknown ones too. Raises WireError at the first bad byte.

    Linear in the length of the message; messages inside are bytes until `fields` is called on them.
    """
    at = 0
    while at < len(message):
        tag, start = read_varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or wire_type not in WIRE_NAMES:
            raise WireError(f"no protobuf field has tag {tag}", at)
        value, end = _value(message, start, wire_type)
        yield Field(number, value, wire_type, at)
        at = end


def _value(message: bytes, start: int, wire_type: int) -> tuple[int | bytes, int]:
    if wire_type == VARINT:
        return read_varint(message, start)
    if wire_type == LENGTH:
        length, start = read_varint(message, start)
    else:
        length = 8 if wire_type == FIXED64 else 4
    if length > len(message) - start:
        raise WireError(f"a field of {length} bytes does not fit into the {len(message) - start} left", start)
    return message[start : start + length], start + length


def integer_field(number: int, value: int) -> bytes:
    """A field that holds an integer, a bool or an enum; a negative one takes ten bytes, as protobuf demands."""
    return _varint(number << 3 | VARINT) + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def content_field(number: int, content: bytes) -> bytes:
    """A field that holds a string in UTF-8, or a message."""
    return _varint(number << 3 | LENGTH) + _varint(len(content)) + content


def float32_field(number: int, value: float) -> bytes:
    """A field that holds a number, rounded to an IEEE float of 4 bytes."""
    return _varint(number << 3 | FIXED32) + pack("<f", value)


def _varint(value: int) -> bytes:
    """Seven bits to a byte, the lowest first; the inverse of `read_varint`."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
