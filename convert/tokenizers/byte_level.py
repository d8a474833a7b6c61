"""The printable text that stands for raw bytes in byte-level vocabularies: one character for each byte."""

from __future__ import annotations

from functools import cache


@cache
def byte_characters() -> tuple[str, ...]:
    """The character for each of the 256 byte values, in the order of the values.

    Printable Latin-1 stands for itself; the other 68 values are U+0100 upwards in order, so that no
    token has a space or a control character in it: 0x20 is "Ġ", 0x0A is "Ċ". A bijection.
    Source: openai/gpt-2 src/encoder.py, bytes_to_unicode.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in printable]
    return tuple(chr(value if value in printable else 0x100 + others.index(value)) for value in range(256))


def byte_text(token: bytes) -> str:
    """The text of a token in a byte-level vocabulary: `b" the"` is `Ġthe`. Exact, and reversible."""
    return token.decode("latin-1").translate(_translation())


def token_bytes(text: str) -> bytes:
    """The raw bytes of a token of a byte-level vocabulary; the inverse of `byte_text`.

    Raises ValueError where a character of the text stands for no byte.
    """
    try:
        return text.translate(_inverse()).encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} has a character that stands for no byte") from error


@cache
def _translation() -> dict[int, str]:
    return dict(enumerate(byte_characters()))


@cache
def _inverse() -> dict[int, int]:
    """Bytes by the characters that stand for them; those below U+0100 that stand for none lead out of Latin-1."""
    values = {ord(character): value for value, character in enumerate(byte_characters())}
    return {code: values.get(code, 0xFFFF) for code in {*range(0x100), *values}}
