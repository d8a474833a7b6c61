"""No small pickle makes the reader hang or swallow memory, whatever it claims."""

from __future__ import annotations

import io
import struct

import pytest

from llama_convert.convert.containers import unpickler
from llama_convert.convert.containers.unpickler import PickleError, unpickle
from tests.convert.pickles import START, bounded, read, refusal, text

DOUBLED = b"K\x01" + b"q\x00h\x00\x86" * 60  # a pair of pairs of pairs: 2**60 numbers
BOMBS = {
    "called": DOUBLED + b")R.",
    "as key": b"}" + DOUBLED + b"K\x01s.",
    "as keys": b"}(" + DOUBLED + b"K\x01u.",
    "as name": DOUBLED + text("x") + b"\x93.",
    "as storage key": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + DOUBLED + b"NK\x01tQ.",
    "as elements": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + b"N" + DOUBLED + b"tQ.",
    "as storage type": b"(" + text("storage") + DOUBLED + text("0") + b"NK\x01tQ.",
    "as shape": b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00" + DOUBLED + b"q\x01h\x01\x89NtR.",
    "deep list as key": b"}" + b"]" * 10 + b"K\x01s.",
    "deep tuple as key": b"}K\x01" + b"\x85" * 300_000 + b"K\x01s.",
    "deep tuple called": b"K\x01" + b"\x85" * 100_000 + b")R.",
    "copies of a dict": b"ccollections\nOrderedDict\nq\x00)R("
    + b"".join(b"M" + struct.pack("<H", number) + b"N" for number in range(20_000))
    + b"u\x85q\x01"
    + b"h\x00h\x01R" * 1000
    + b".",
    "copies of a name": text("x" * 100_000) + b"q\x00" + b"h\x00h\x00\x93" * 10_000 + b"0.",
    "many arguments": b"ctorch._utils\n_rebuild_parameter\nq\x00("
    + b"N" * 50_000
    + b"tq\x01"
    + b"h\x00h\x01R0" * 10_000
    + b".",
    "many dimensions": b"("
    + b"K\x01" * 50_000
    + b"tq\x00ctorch._utils\n_rebuild_tensor_v2\nq\x01(("
    + text("storage")
    + b"ctorch\nFloatStorage\n"
    + text("0")
    + b"NK\x01tQK\x00h\x00h\x00tq\x02"
    + b"h\x01h\x02R0" * 10_000
    + b".",
    "endless": b"]" * 100_000,
    "no end of a name": b"c" + b"x" * (2 << 20),
    "marks": b"(" * 300_000 + b".",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_small_files_cannot_ask_for_much(bomb):
    with bounded(), pytest.raises(PickleError):
        read(START + BOMBS[bomb])


def test_a_pickle_has_an_end(monkeypatch):
    monkeypatch.setattr(unpickler, "LONGEST_PICKLE", 1000)
    assert read(START + b"N0" * 498 + b"N.") is None
    assert "claims 1 bytes" in refusal(START + b"N0" * 499 + b"N.")


CLAIMS = {
    "BINUNICODE": b"X" + b"\xff" * 4,
    "BINUNICODE8": b"\x8d" + b"\xff" * 7 + b"\x3f",
    "BINBYTES": b"B" + b"\xff" * 4,
    "BINBYTES8": b"\x8e" + b"\xff" * 7 + b"\x3f",
    "BINBYTES8 beyond all": b"\x8e" + b"\xff" * 8,
    "BYTEARRAY8": b"\x96" + b"\xff" * 7 + b"\x3f",
    "BINSTRING": b"T" + b"\xff" * 3 + b"\x7f",
    "BINSTRING below zero": b"T" + b"\xff" * 4,
    "LONG4": b"\x8b" + b"\xff" * 3 + b"\x7f",
    "FRAME": b"\x95" + b"\xff" * 8,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claimed_length_allocates_nothing(claim):
    """In a buffered stream too, where `read(n)` would allocate n bytes before it finds that there are none."""
    data = START + CLAIMS[claim] + b"abc."
    for stream in (io.BytesIO(data), io.BufferedReader(io.BytesIO(data))):
        with bounded(megabytes=1), pytest.raises(PickleError):
            unpickle(stream)


def test_memo_indices_are_only_names():
    with bounded(megabytes=1):
        assert read(START + b"K\x07r" + b"\xff\xff\xff\x7f" + b"0j" + b"\xff\xff\xff\x7f" + b".") == 7
    assert "damaged" in refusal(START + b"K\x07r" + b"\xff\xff\xff\x7f" + b"0j" + b"\xfe\xff\xff\x7f" + b".")


def test_a_list_in_itself_is_a_list():
    value = read(START + b"]q\x00h\x00a.")
    assert isinstance(value, list)
    assert value[0] is value


@pytest.mark.parametrize(
    "pickled", [b"", START, b".", START + b"K\x01K\x02.", START + b"0.", START + b"h\x01.", b"\xff"]
)
def test_what_is_no_pickle_is_refused(pickled):
    refusal(pickled)
