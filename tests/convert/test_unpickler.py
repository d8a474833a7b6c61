"""Nothing in a pickle is ever run, and no bytes make the reader fail, hang or swallow memory."""

from __future__ import annotations

import argparse
import io
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llama_convert.convert.containers import unpickler
from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.slices import LocalFile
from llama_convert.convert.containers.unpickler import PickleError, unpickle
from llama_convert.convert.errors import CheckpointError
from tests.convert.support import EDITS, edited

START = b"\x80\x02"  # PROTO 2


def read(data: bytes) -> object:
    return unpickle(io.BytesIO(data))


def refusal(data: bytes) -> str:
    with pytest.raises(PickleError) as caught:
        read(data)
    return str(caught.value)


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object, state: object = None) -> None:
        self.made = (function, arguments, state) if state else (function, arguments)

    def __reduce__(self):
        return self.made


# --- nothing is run ------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def attacks(marker: Path) -> dict[str, tuple[bytes, str]]:
    """name -> (a pickle that would write the marker file, what must be named in its refusal)."""
    command = f"touch {marker}"
    system = b"cos\nsystem\n"
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "REDUCE": (START + system + text(command) + b"\x85R.", "os.system"),
        "STACK_GLOBAL": (b"\x80\x04" + text("os") + text("system") + b"\x93" + text(command) + b"\x85R.", "os.system"),
        "eval": (START + b"cbuiltins\neval\n" + text(code) + b"\x85R.", "builtins.eval"),
        "INST": (START + b"(" + text(command) + b"ios\nsystem\n.", "os.system"),
        "OBJ": (START + b"(" + system + text(command) + b"o.", "os.system"),
        "NEWOBJ": (START + b"csubprocess\nPopen\n" + text(command) + b"\x85\x81.", "subprocess.Popen"),
        "NEWOBJ_EX": (
            b"\x80\x04csubprocess\nPopen\n" + text(command) + b"\x85}" + text("shell") + b"\x88s\x92.",
            "subprocess.Popen",
        ),
        "getattr": (
            START
            + b"cbuiltins\ngetattr\ncbuiltins\n__import__\n"
            + text("os")
            + b"\x85R"
            + text("system")
            + b"\x86R"
            + text(command)
            + b"\x85R.",
            "builtins.getattr, builtins.__import__",
        ),
        "BUILD": (START + b"cargparse\nNamespace\n)R}" + text("a") + system + text(command) + b"\x85Rsb.", "os.system"),
        "as a storage": (START + b"(" + text("storage") + system + text("0") + text("cpu") + b"K\x01tQ.", "os.system"),
        "as a dtype": (
            START + b"ctorch._utils\n_rebuild_tensor_v3\n(K\x00K\x00))\x89N" + system + text(command) + b"\x85RtR.",
            "os.system",
        ),
        "in what is thrown away": (START + system + text(command) + b"\x85R0}.", "os.system"),
        "never called": (START + b"}" + text("a") + system + b"s.", "os.system"),
    }


ATTACKS = sorted(attacks(Path("unused")))


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_by_name_and_not_run(tmp_path, attack):
    marker = tmp_path / "was-here"
    data, named = attacks(marker)[attack]
    assert named in refusal(data)
    assert not marker.exists()


@pytest.mark.parametrize("attack", ["REDUCE", "STACK_GLOBAL", "eval", "INST", "OBJ", "getattr", "BUILD"])
def test_the_same_attack_works_on_pickle(tmp_path, attack):
    """The control: what is refused above does run where pickles are loaded."""
    marker = tmp_path / "was-here"
    program = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    subprocess.run([sys.executable, "-c", program], input=attacks(marker)[attack][0], check=False, capture_output=True)
    assert marker.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_an_attack_inside_a_checkpoint_is_refused_with_all_names(tmp_path, legacy):
    marker, path = tmp_path / "was-here", tmp_path / "a.pth"
    values = {
        "a": torch.zeros(2),
        "b": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "args": argparse.Namespace(lr=1e-3),
        "loss": np.float64(1.5),
        "dict": {"nested": [Calls(print, "x", state={"y": Path("/")})]},
    }
    torch.save(values, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError) as caught:
        read_pth(LocalFile(path))
    for name in ("eval", "argparse.Namespace", "numpy.dtype", "print", "pathlib.PosixPath"):
        assert name in caught.value.summary
    assert "Nothing of it was executed" in caught.value.advice
    assert not marker.exists()


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"], ids=["1", "2", "4"])
def test_extension_codes_are_refused(opcode):
    assert "EXT" in refusal(START + opcode + b".")


def test_a_dict_is_not_filled_by_its_constructor():
    assert "constructor" in refusal(START + b"ccollections\nOrderedDict\n}\x85R.")
    assert read(START + b"ccollections\nOrderedDict\n)R.") == {}


def test_names_cannot_steer_a_terminal():
    assert "\x1b" not in refusal(START + text("x\x1b[2J") + text("y\n") + b"\x93.")


def test_only_so_many_names_are_listed():
    data = START + b"".join(b"cm\nn%d\n0" % number for number in range(1000)) + b"}."
    assert "m.n49 and 950 more" in refusal(data)


def test_a_plain_object_is_read():
    """The control for all refusals: protocol 2 and 4 pickles of plain data are read, and what follows is left."""
    value = {"a": [1, 2.5, None, True, "ż"], "b": (1, (2, 3)), "c": {"d": b"bytes"}, 7: -(2**62)}
    for protocol in (3, 4, 5):
        stream = io.BytesIO(pickle.dumps(value, protocol) + b"rest")
        assert unpickle(stream) == value
        assert stream.read() == b"rest"


# --- nothing is exhausted ------------------------------------------------------------------------


@contextmanager
def bounded(megabytes: float = 100, seconds: float = 5) -> Iterator[None]:
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < seconds
    assert peak < megabytes * 2**20


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


# --- any bytes -----------------------------------------------------------------------------------


def saved(*, legacy: bool) -> bytes:
    base = torch.arange(6.0).reshape(2, 3)
    values = {"a.weight": base, "b.weight": base.t(), "c": torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))}
    values["d"] = torch.zeros(3, dtype=torch.float8_e4m3fn)
    buffer = io.BytesIO()
    torch.save(values, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


ZIPPED, STREAM = saved(legacy=False), saved(legacy=True)
PICKLE = zipfile.ZipFile(io.BytesIO(ZIPPED)).read("archive/data.pkl")
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # pickletools, on damaged texts
FUZZ = settings(max_examples=250, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(path: Path, data: bytes) -> str:
    """ "read" or "refused"; anything else is raised and fails the test."""
    path.write_bytes(data)
    try:
        found = read_pth(LocalFile(path))
    except CheckpointError:
        return "refused"
    for tensor in found.tensors.values():  # what is read lies in the file
        last = sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides or tensor.shape, strict=True)
        )
        assert tensor.offset >= 0
        assert tensor.strides is None or tensor.offset + (last + 1) * tensor.dtype.nbytes <= len(data)
        assert tensor.strides is not None or tensor.offset + tensor.nbytes <= len(data)
    return "read"


def test_the_unharmed_files_are_read(tmp_path):
    assert [outcome(tmp_path / "a.pth", data) for data in (ZIPPED, STREAM)] == ["read", "read"]
    assert len(read(PICKLE)) == 4


@FUZZ
@given(st.binary(max_size=300))
@example(START + b"]" * 200)
def test_any_bytes_as_a_pickle(data):
    with bounded(), suppress(PickleError):
        read(data)


@FUZZ
@given(EDITS)
def test_a_damaged_pickle(edits):
    with bounded(), suppress(PickleError):
        read(edited(PICKLE, edits))


@FUZZ
@given(st.lists(st.sampled_from([bytes([code]) for code in b"(.012NK\x01\x02]}al)est\x85\x86\x87QqhRbX\x00ujcd\n"])))
def test_any_instructions(codes):
    """Bytes drawn from the instructions themselves go further than random ones."""
    with bounded(), suppress(PickleError):
        read(START + b"".join(codes))


@pytest.mark.parametrize("keys", [7, None, {"a": 1}, "text", [1, 2], "twice"])
def test_a_list_of_storages_that_is_none(tmp_path, keys):
    start = STREAM.rindex(b"\x80\x02]")
    whole = pickle.loads(STREAM[start:])
    changed = [*whole, whole[0]] if keys == "twice" else keys
    (tmp_path / "a.pth").write_bytes(STREAM[:start] + pickle.dumps(changed, 4) + bytes(100))
    with pytest.raises(CheckpointError, match="list of storages"):
        read_pth(LocalFile(tmp_path / "a.pth"))


@FUZZ
@given(edits=EDITS)
def test_a_damaged_zip_file(tmp_path, edits):
    with bounded():
        outcome(tmp_path / "a.pth", edited(ZIPPED, edits))


@FUZZ
@given(edits=EDITS)
def test_a_damaged_legacy_file(tmp_path, edits):
    with bounded():
        outcome(tmp_path / "a.pth", edited(STREAM, edits))


@FUZZ
@given(edits=EDITS)
def test_a_damaged_pickle_in_a_whole_zip(tmp_path, edits):
    """The zip around it is sound, so that the damage is not found before the pickle is read."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(ZIPPED)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, edited(data, edits) if name.endswith("data.pkl") else data)
    with bounded():
        outcome(tmp_path / "a.pth", buffer.getvalue())


def test_every_single_byte_of_the_directory_can_be_wrong(tmp_path):
    """All 256 values are too many; two, at every place of the directory and of a legacy file."""
    for data in (ZIPPED[-600:], STREAM):
        for place in range(len(data)):
            for mask in (0xFF, 0x01):
                changed = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
                outcome(tmp_path / "a.pth", ZIPPED[:-600] + changed if data is not STREAM else changed)
