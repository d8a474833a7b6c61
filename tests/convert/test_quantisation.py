"""Quantised weights read: ggml's types as gguf's own Python does, FP8 as torch, MLX's as arithmetic by hand."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.quantisation import DECODERS, decode, decode_affine, decode_scaled
from llama_convert.convert.quantisation.layouts import LAYOUTS
from tests.convert.support import traced_memory

QUANTISED = [dtype for dtype in DType if dtype.block > 1]
SEEDS = st.integers(0, 2**31)
label = pytest.mark.parametrize


def same(found, wanted) -> bool:
    """Bit for bit, but for what a NaN carries."""
    nans = np.isnan(found)
    return (
        found.shape == wanted.shape
        and np.array_equal(nans, np.isnan(wanted))
        and np.array_equal(found.view(np.uint32)[~nans], wanted.view(np.uint32)[~nans])
    )


def ggml(dtype: DType) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[dtype.name]


# --- decoding ggml's types -----------------------------------------------------------------------


def random_blocks(dtype: DType, rows: int, seed: int, *, finite: bool = False) -> np.ndarray:
    """Rows of three blocks of any bytes; finite: with half-precision fields between 0.001 and 1, either sign."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (rows, 3 * dtype.nbytes), dtype=np.uint8)
    fields = blocks.reshape(-1).view(LAYOUTS[dtype])
    for name in ("scale", "minimum") if finite else ():
        if name in fields.dtype.names and fields[name].dtype == np.float16:
            fields[name] = generator.uniform(0.001, 1, len(fields)) * generator.choice([-1, 1], len(fields))
    return blocks


def by_gguf(block: np.ndarray, dtype: DType) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(block, ggml(dtype))


def test_every_type_has_a_layout_and_a_decoder():
    assert set(QUANTISED) == set(DECODERS) == set(LAYOUTS)
    assert all(LAYOUTS[dtype].itemsize == dtype.nbytes for dtype in QUANTISED)
    sizes = {dtype: gguf.GGML_QUANT_SIZES[ggml(dtype)] for dtype in QUANTISED}
    assert sizes == {dtype: (dtype.block, dtype.nbytes) for dtype in QUANTISED}


@label("dtype", QUANTISED, ids=lambda dtype: dtype.label)
@label("finite", [True, False])
def test_decoded_as_by_gguf(dtype, finite):
    block = random_blocks(dtype, 500, seed=1, finite=finite)
    decoded = decode(block, dtype)
    assert decoded.dtype == np.float32
    assert same(decoded, by_gguf(block, dtype))
    assert not finite or dtype in (DType.IQ1_M, DType.MXFP4) or np.isfinite(decoded).all()


@label("dtype", QUANTISED, ids=lambda dtype: dtype.label)
@given(seed=SEEDS, fill=st.sampled_from([None, 0x00, 0x7F, 0x80, 0xFF]))
@settings(deadline=None, max_examples=15)
def test_decoded_as_by_gguf_whatever_the_bytes(dtype, seed, fill):
    block = random_blocks(dtype, 2, seed)
    if fill is not None:
        block[0] = fill
    assert same(decode(block, dtype), by_gguf(block, dtype))


@label("dtype", QUANTISED, ids=lambda dtype: dtype.label)
def test_decoded_in_pieces_of_any_size(dtype, monkeypatch):
    block = random_blocks(dtype, 7, seed=2)
    wanted = by_gguf(block, dtype)
    monkeypatch.setattr("llama_convert.convert.quantisation.decoding.CHUNK", 4 * dtype.block)
    assert same(decode(block, dtype), wanted)
    assert same(decode(np.repeat(block, 2, axis=0)[::2], dtype), wanted)
    assert decode(block[:0], dtype).shape == (0, wanted.shape[1])


def test_decoded_by_hand():
    """One Q4_0 block: scale 0.5; the lower half of byte i is element i, the upper half is element 16 + i."""
    block = np.array([[0x00, 0x38, 0x80, 0xF9, *[0x88] * 14]], np.uint8)
    assert decode(block, DType.Q4_0)[0].tolist() == [-4.0, 0.5, *[0.0] * 15, 3.5, *[0.0] * 14]


@label("dtype", QUANTISED, ids=lambda dtype: dtype.label)
def test_another_bit_is_another_weight(dtype):
    """Negative control: of the comparison, and of fields that no code reads."""
    block = random_blocks(dtype, 1, seed=3, finite=True)
    fields = LAYOUTS[dtype].fields
    before = decode(block, dtype)
    for name in fields:
        changed = block.copy()
        changed.reshape(-1)[fields[name][1]] ^= 0x55
        assert not same(decode(changed, dtype), before), name


def test_rows_must_be_whole_blocks():
    with pytest.raises(CheckpointError, match="rows of 19 bytes are not made of q4_0 blocks of 18 bytes"):
        decode(np.zeros((2, 19), np.uint8), DType.Q4_0)


def test_memory_of_decoding():
    block = np.zeros((64, 144 * 256), np.uint8)
    decode(block[:1], DType.Q4_K)
    with traced_memory() as peak:
        decoded = decode(block, DType.Q4_K)
        assert peak() < decoded.nbytes + (2 << 20)


# --- one byte an element, and scales -------------------------------------------------------------

BYTES = [DType.FLOAT8_E4M3, DType.FLOAT8_E5M2, DType.INT8]
ONE_BYTE = label("dtype", BYTES, ids=lambda dtype: dtype.label)


def as_torch(block: np.ndarray, dtype: DType) -> torch.Tensor:
    return torch.from_numpy(block.copy()).view(getattr(torch, dtype.label)).float()


@ONE_BYTE
def test_every_byte_is_torchs(dtype):
    every = np.arange(256, dtype=np.uint8).reshape(1, -1)
    found = decode_scaled(every, dtype, np.ones(1, np.float32))
    assert np.array_equal(found.view(np.uint32), as_torch(every, dtype).numpy().view(np.uint32))


@ONE_BYTE
@label("shape", [(), (1,), (1, 1), (11,), (11, 1)])
def test_one_scale_or_one_a_row(dtype, shape):
    generator = np.random.default_rng(0)
    block = generator.integers(0, 256, (11, 37), dtype=np.uint8)
    scale = np.array(generator.uniform(1e-4, 3, shape), np.float32)
    factors = torch.from_numpy(scale.reshape(-1, 1))
    assert same(decode_scaled(block, dtype, scale), (as_torch(block, dtype) * factors).numpy())


@ONE_BYTE
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 9), down=st.integers(1, 10), across=st.integers(1, 10), seed=SEEDS
)
@settings(deadline=None, max_examples=60)
def test_one_scale_a_tile(dtype, rows, columns, down, across, seed):
    generator = np.random.default_rng(seed)
    block = generator.integers(0, 256, (rows, columns), dtype=np.uint8)
    scale = generator.uniform(1e-4, 3, (-(-rows // down), -(-columns // across))).astype(np.float32)
    elements = as_torch(block, dtype).numpy()
    wanted = [[elements[y, x] * scale[y // down, x // across] for x in range(columns)] for y in range(rows)]
    assert same(decode_scaled(block, dtype, scale, (down, across)), np.array(wanted, np.float32))


@ONE_BYTE
def test_scaled_in_pieces(dtype, monkeypatch):
    block = np.random.default_rng(1).integers(0, 256, (50, 30), dtype=np.uint8)
    scale = np.linspace(1, 2, 50, dtype=np.float32)
    wanted = decode_scaled(block, dtype, scale)
    monkeypatch.setattr("llama_convert.convert.quantisation.scaled.CHUNK", 64)
    assert same(decode_scaled(block, dtype, scale), wanted)
    assert decode_scaled(block[:0], dtype, np.ones(1, np.float32)).shape == (0, 30)


@label(("shape", "tile"), [((3,), None), ((2, 2), None), ((4, 2), (2, 2)), ((2,), (4, 4)), ((2, 4), None)])
def test_scales_of_another_tensor_are_refused(shape, tile):
    block = np.zeros((4, 8), np.uint8)
    with pytest.raises(CheckpointError, match="have scales of shape"):
        decode_scaled(block, DType.INT8, np.ones(shape, np.float32), tile)


# --- MLX -----------------------------------------------------------------------------------------


def packed(integers: list[int], bits: int) -> list[int]:
    """A row as MLX packs it: one long number, the first integer lowest, cut into words of 32 bits."""
    whole = sum(integer << (bits * place) for place, integer in enumerate(integers))
    return [whole >> shift & 0xFFFFFFFF for shift in range(0, bits * len(integers), 32)]


@label("bits", [2, 3, 4, 5, 6, 8])
@label("group", [32, 64])
def test_affine_by_hand(bits, group):
    generator = np.random.default_rng(bits)
    integers = generator.integers(0, 1 << bits, (5, 2 * group))
    scales, biases = (generator.standard_normal((5, 2), np.float32) for _ in range(2))
    words = np.array([packed(row, bits) for row in integers.tolist()], np.uint32)
    wanted = [
        [np.float32(integer) * scales[y, x // group] + biases[y, x // group] for x, integer in enumerate(row)]
        for y, row in enumerate(integers)
    ]
    assert same(decode_affine(words, scales, biases, bits, group), np.array(wanted, np.float32))


def test_affine_as_mlx_wrote_it():
    """Golden: mlx 0.32.4, quantize((arange(64) * 7 % 64 - 20).astype(float32), group_size=64, bits=6)."""
    words = [
        *(0x23AB1E3F, 0x90073957, 0x59D92BCB, 0x33E8120F, 0x94177A5B, 0x9ADD3B08),
        *(0x0329161F, 0x9827BB5F, 0xDBD10B49, 0x136A1A2F, 0x9C37F853, 0x18D51B8A),
    ]
    scales, biases = np.array([[-1.0]], np.float32), np.array([[43.0]], np.float32)
    decoded = decode_affine(np.array([words], np.uint32), scales, biases, 6, 64)
    assert decoded[0].tolist() == [place * 7 % 64 - 20 for place in range(64)]


def test_affine_in_pieces(monkeypatch):
    generator = np.random.default_rng(0)
    words = generator.integers(0, 1 << 32, (9, 12), dtype=np.uint32)
    scales, biases = (generator.standard_normal((9, 4), np.float32) for _ in range(2))
    wanted = decode_affine(words, scales, biases, 3, 32)
    monkeypatch.setattr("llama_convert.convert.quantisation.affine.CHUNK", 300)
    assert same(decode_affine(words, scales, biases, 3, 32), wanted)
    assert not same(decode_affine(words[:, ::-1], scales, biases, 3, 32), wanted)


@label(("bits", "group", "groups"), [(4, 64, 3), (4, 48, 2), (7, 64, 2), (8, 64, 2), (0, 64, 2), (4, 0, 2)])
def test_affine_numbers_that_do_not_fit_are_refused(bits, group, groups):
    scales = np.ones((2, groups), np.float32)
    with pytest.raises(CheckpointError, match="do not fit scales"):
        decode_affine(np.zeros((2, 16), np.uint32), scales, scales, bits, group)
