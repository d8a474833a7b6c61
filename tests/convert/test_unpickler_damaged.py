"""No bytes make the reader of pickles fail: they are read or refused."""

from __future__ import annotations

import io
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.slices import LocalFile
from llama_convert.convert.containers.unpickler import PickleError
from llama_convert.convert.errors import CheckpointError
from tests.convert.pickles import START, bounded, read
from tests.convert.support import EDITS, edited


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
