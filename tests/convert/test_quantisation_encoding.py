"""Weights quantised: the same bytes as gguf's own Python, for every number."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_convert.convert.containers.slices import FLOATS, DType
from llama_convert.convert.errors import UsageError
from llama_convert.convert.quantisation import ENCODERS, decode, encode, encode_block, encoding
from tests.convert.support import traced_memory

BLOCK = 32
label = pytest.mark.parametrize
TARGETS = label("target", ENCODERS, ids=lambda dtype: dtype.label)
SOURCES = label("source", FLOATS, ids=lambda dtype: dtype.label)
TINY, HUGE = float(np.float32(1e-45)), float(np.finfo(np.float32).max)
EXTREMES = [0.0, -0.0, TINY, -TINY, 1e-40, 2e-38, -2e-38, 1e-36, 3e-5, 1.0, -1.0, 65504.0, 524_032.0, HUGE, -HUGE]


def stored(values: np.ndarray, source: DType) -> np.ndarray:
    """Rounded to a type, as bytes; beyond its range infinite."""
    tensor = torch.from_numpy(np.array(values, np.float32)).to(getattr(torch, source.label))
    return tensor.contiguous().view(torch.uint8).numpy()


def floats(block: np.ndarray, source: DType) -> np.ndarray:
    return torch.from_numpy(block).view(getattr(torch, source.label)).float().numpy()


def encoded_by_gguf(values: np.ndarray, target: DType) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[target.name])


def check(values: np.ndarray, source: DType, target: DType) -> None:
    block = stored(values, source)
    block.setflags(write=False)
    wanted = encoded_by_gguf(floats(block.copy(), source), target)
    assert np.array_equal(encode_block(block, source, target), wanted)


@TARGETS
@SOURCES
@label("deviation", [1e-30, 0.02, 3e4])
def test_encoded_as_by_gguf(source, target, deviation):
    values = np.random.default_rng(0).standard_normal((300, 1024), np.float32) * np.float32(deviation)
    check(values.clip(-65504, 65504), source, target)


@TARGETS
@SOURCES
def test_largest_of_both_signs_takes_the_first(source, target):
    """Few different magnitudes, so nearly every block has its largest one with both signs."""
    values = np.random.default_rng(1).integers(-3, 4, (500, 4 * BLOCK)).astype(np.float32)
    farthest = np.abs(values.reshape(-1, BLOCK)).max(axis=1, keepdims=True)
    both = [(values.reshape(-1, BLOCK) == sign * farthest).any(axis=1) for sign in (1, -1)]
    assert (both[0] & both[1]).mean() > 0.9
    check(values, source, target)
    check(values * np.float32(0.0), source, target)  # zeros of both signs


@TARGETS
@SOURCES
@label("value", [value for value in EXTREMES if abs(value) != HUGE])
def test_constant_blocks(source, target, value):
    check(np.full((1, BLOCK), value), source, target)
    check(np.full((3, 2 * BLOCK), value), source, target)


@TARGETS
@label("source", [DType.BFLOAT16, DType.FLOAT16], ids=lambda dtype: dtype.label)
def test_every_number_of_16_bits(source, target):
    """Blocks of neighbours, subnormals with each other; and each number among small and large ones."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    values = floats(every, source)
    numbers = values[np.isfinite(values)].reshape(-1, BLOCK)
    check(numbers, source, target)
    columns = numbers[: len(numbers) // BLOCK * BLOCK].T
    check(np.ascontiguousarray(columns), source, target)


@TARGETS
def test_halves(target):
    """Numbers that lie midway between two codes, or next to there; ggml rounds 127 * x away from zero."""
    codes = np.arange(-127, 127, dtype=np.float32) + np.float32(0.5)
    near = np.stack([np.nextafter(codes, np.float32(-1000)), codes, np.nextafter(codes, np.float32(1000))])
    values = np.zeros((254 * 3, BLOCK), np.float32)
    values[:, 7], values[:, 12] = 127, near.reshape(-1)
    check(values, DType.FLOAT32, target)
    check(values / np.float32(3), DType.FLOAT32, target)
    check(-values, DType.BFLOAT16, target)


@TARGETS
@given(
    values=st.lists(
        st.one_of(st.sampled_from(EXTREMES), st.floats(width=32, allow_nan=False)), min_size=32, max_size=32
    ),
    exponent=st.integers(-20, 20),
    source=st.sampled_from(FLOATS),
)
@settings(deadline=None, max_examples=300)
def test_encoded_as_by_gguf_whatever_the_numbers(target, values, exponent, source):
    numbers = np.array([values], np.float32)
    with np.errstate(all="ignore"):
        for row in (numbers, np.sign(numbers) * np.float32(2.0**exponent) * np.abs(numbers) ** np.float32(0.1)):
            finite = np.where(np.isfinite(row), row, 0).astype(np.float32)
            block = floats(stored(finite, source), source)
            check(np.where(np.isfinite(block), block, 1), source, target)


@TARGETS
@SOURCES
@label("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.filterwarnings("error")
def test_what_is_no_number_gives_a_scale_that_is_none(source, target, bad):
    values = np.random.default_rng(2).standard_normal((2, 2 * BLOCK), np.float32)
    values[1, 40] = bad
    found = encode_block(stored(values, source), source, target)
    scales = found.reshape(-1, target.nbytes)[:, :2].copy().view(np.float16)
    assert np.isfinite(scales[:, 0]).tolist() == [True, True, True, False]
    clean = encode_block(stored(np.where(np.isfinite(values), values, 0), source), source, target)
    assert np.array_equal(found.reshape(4, -1)[:3], clean.reshape(4, -1)[:3])


@TARGETS
def test_encode_takes_single_precision(target):
    values = np.random.default_rng(3).standard_normal((6, 64), np.float32)
    assert np.array_equal(encode(values, target), encoded_by_gguf(values, target))
    assert np.array_equal(encode(values[::2, :32], target), encoded_by_gguf(values[::2, :32], target))
    assert encode(values[:0], target).shape == (0, 2 * target.nbytes)


@TARGETS
@SOURCES
def test_encoded_in_pieces_and_by_threads(source, target, monkeypatch):
    values = np.random.default_rng(4).standard_normal((48, 320), np.float32)
    block = stored(values, source)
    whole = encode_block(block, source, target)
    monkeypatch.setattr(encoding, "CHUNK", 3 * BLOCK)
    assert np.array_equal(encode_block(block, source, target), whole)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda part: encode_block(part, source, target), np.array_split(block, 12)))
    assert np.array_equal(np.concatenate(parts), whole)


@TARGETS
def test_encoding_is_lossy_within_half_a_step(target):
    values = np.random.default_rng(5).standard_normal((20, 256), np.float32)
    decoded = decode(encode(values, target), target)
    farthest = np.abs(values.reshape(-1, BLOCK)).max(axis=1)
    steps = farthest / {DType.Q4_0: 8, DType.Q8_0: 127}[target]
    errors = np.abs(decoded - values).reshape(-1, BLOCK).max(axis=1)
    # Q4_0 has no code for the opposite of the farthest: an error of up to a whole step there.
    assert (errors <= steps * {DType.Q4_0: 1.01, DType.Q8_0: 0.56}[target]).all()


def test_cutting_instead_of_rounding_is_noticed():
    """Negative control: other roundings give other bytes for ordinary weights."""
    values = np.random.default_rng(6).standard_normal((100, 320), np.float32)
    codes = encode(values, DType.Q8_0).reshape(-1, 34)[:, 2:].view(np.int8)
    scales = np.abs(values.reshape(-1, BLOCK)).max(axis=1, keepdims=True) / np.float32(127)
    exact = values.reshape(-1, BLOCK) * (np.float32(1) / scales)
    assert (np.trunc(exact) != codes).mean() > 0.4
    halves = np.zeros((1, BLOCK), np.float32)
    halves[0, :3] = 127, 2.5, -2.5
    assert encode(halves, DType.Q8_0)[0, 2:5].view(np.int8).tolist() == [127, 3, -3]  # to even: 2, -2


@TARGETS
def test_rows_must_be_whole_blocks_of_32(target):
    with pytest.raises(UsageError, match="rows of 48 elements cannot be cut into"):
        encode_block(np.zeros((2, 96), np.uint8), DType.BFLOAT16, target)


@TARGETS
def test_memory_of_encoding(target):
    block = np.zeros((2048, 8192), np.uint8)
    with traced_memory() as peak:
        found = encode_block(block, DType.BFLOAT16, target)
        assert peak() < found.nbytes + (8 << 20)
