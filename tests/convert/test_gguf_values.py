"""Values of a GGUF header: kept exactly as they were, and never written where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from llama_convert.convert.containers.gguf import read_gguf
from llama_convert.convert.containers.gguf_values import Array, Kind, Scalar
from llama_convert.convert.containers.gguf_writer import lay_out
from llama_convert.convert.containers.slices import DType, LocalFile
from llama_convert.convert.errors import UsageError
from tests.convert.gguf_files import written_by_us


def test_texts_that_are_no_utf8_stay_bytes(path):
    metadata = {"a": Scalar(Kind.STRING, b"\xff\xfe"), "b": Array(Kind.STRING, ["é", b"\xe9", ""])}
    path.write_bytes(written_by_us(metadata, []))
    found = read_gguf(LocalFile(path)).metadata
    assert found["a"].content == b"\xff\xfe"
    assert found["b"].content == ("é", b"\xe9", "")


def test_numbers_that_were_read_are_exact_and_cannot_be_changed(path):
    bits = np.arange(0, 2**32, 65_537, dtype="<u4")
    path.write_bytes(written_by_us({"a": Array(Kind.FLOAT32, bits.view("<f4"))}, []))
    content = read_gguf(LocalFile(path)).metadata["a"].content
    assert (content.view("<u4") == bits).all()
    with pytest.raises(ValueError, match="read-only"):
        content[0] = 1


def test_arrays_are_equal_by_their_bytes():
    assert Array(Kind.INT32, [1]) == Array(Kind.INT32, (1,)) == Array(Kind.INT32, np.array([1]))
    assert len({Array(Kind.INT32, [1]), Array(Kind.INT32, (1,))}) == 1
    assert Array(Kind.INT32, [1]) != Array(Kind.UINT32, [1])
    assert Array(Kind.FLOAT32, [0.0]) != Array(Kind.FLOAT32, [-0.0])
    assert Array(Kind.INT32, [1]) != [1]


@pytest.mark.parametrize(
    "value",
    [
        Scalar(Kind.UINT8, 256),
        Scalar(Kind.UINT32, -1),
        Scalar(Kind.INT32, 1.5),
        Scalar(Kind.INT32, "1"),
        Scalar(Kind.FLOAT32, 1e39),
        Scalar(Kind.STRING, 5),
        Array(Kind.UINT8, [1, 256]),
        Array(Kind.UINT8, np.array([256])),
        Array(Kind.INT32, [1.5]),
        Array(Kind.INT32, ["1"]),
        Array(Kind.STRING, ["1", 1]),
        Array(Kind.ARRAY, [Array(Kind.UINT8, [256])]),
    ],
)
def test_a_value_that_does_not_fit_its_kind_is_not_written(value):
    with pytest.raises(ValueError, match=r"some\.key"):
        lay_out({"some.key": value}, [])


def test_the_alignment_is_not_written():
    with pytest.raises(ValueError, match=r"general\.alignment"):
        lay_out({"general.alignment": Scalar(Kind.UINT32, 32)}, [])


def test_all_tensors_that_ggml_cannot_hold_are_told_at_once():
    tensors = [
        ("a", DType.FLOAT8_E4M3, (1,)),
        ("b", DType.Q4_0, (32, 33)),
        ("c", DType.FLOAT32, (1, 1, 1, 1, 1)),
        ("d", DType.FLOAT32, (0, 1)),
        ("e", DType.FLOAT32, (1,)),
        ("e", DType.FLOAT32, (1,)),
        ("f" * 64, DType.FLOAT32, (1,)),
        ("g" * 63, DType.FLOAT32, (1, 1, 1, 1)),
    ]
    with pytest.raises(UsageError) as caught:
        lay_out({}, tensors)
    assert caught.value.problems == (
        "e: given twice",
        "a: ggml has no float8_e4m3fn",
        "b: rows of 33 elements, but q4_0 stores them in blocks of 32",
        "c: more than 4 axes",
        "d: [0, 1] holds nothing",
        f"{'f' * 64}: a name of 64 bytes, but ggml keeps 63",
    )
