"""Nothing in a pickle is ever run: whatever would be is refused by its name."""

from __future__ import annotations

import argparse
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llama_convert.convert.containers.pth import read_pth
from llama_convert.convert.containers.slices import LocalFile
from llama_convert.convert.containers.unpickler import unpickle
from llama_convert.convert.errors import CheckpointError
from tests.convert.pickles import START, read, refusal, text


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object, state: object = None) -> None:
        self.made = (function, arguments, state) if state else (function, arguments)

    def __reduce__(self):
        return self.made


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
