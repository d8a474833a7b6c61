"""llama2.c's files against a writer of our own that follows export.py step by step, in torch and struct."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from llama_convert.convert.containers.llama2c import Header, Llama2cFile, lay_out, read_llama2c, rotary_tables
from llama_convert.convert.containers.slices import DType, LocalFile
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.quantisation.groups import dequantise_groups, group_size, quantise_groups
from tests.convert.support import EDITS, dtype_of, edited, gather, raw

PER_TEST = settings(deadline=4000, suppress_health_check=[HealthCheck.function_scoped_fixture])
SMALL = Header(
    version=1,
    dim=16,
    hidden_dim=24,
    layers=2,
    heads=4,
    kv_heads=2,
    vocab=10,
    context=6,
    shared=False,
    group_size=0,
)
GROUPED = replace(SMALL, version=2, group_size=8)
VERSIONS = pytest.mark.parametrize("header", [replace(SMALL, version=0), SMALL, GROUPED], ids=["v0", "v1", "v2"])


@st.composite
def headers(draw: st.DrawFn) -> Header:
    version, group = draw(st.integers(0, 2)), draw(st.sampled_from([1, 2, 4, 8]))
    kv_heads, ratio = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * ratio
    return Header(
        version=version,
        dim=heads * 8 * draw(st.integers(1, 2)),
        hidden_dim=8 * draw(st.integers(1, 4)),
        layers=draw(st.integers(1, 3)),
        heads=heads,
        kv_heads=kv_heads,
        vocab=draw(st.integers(1, 12)),
        context=draw(st.integers(1, 9)),
        shared=draw(st.booleans()),
        group_size=group if version == 2 else 0,
    )


# --- what export.py does ---------------------------------------------------------------------------


def model(header: Header) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    dim, hidden, key_values = header.dim, header.hidden_dim, header.dim // header.heads * header.kv_heads
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings": (header.vocab, dim), "norm": (dim,)}
    for layer in range(header.layers):
        attention = {"wq": dim, "wk": key_values, "wv": key_values, "wo": dim}
        shapes |= {f"layers.{layer}.attention.{name}": (rows, dim) for name, rows in attention.items()}
        feed_forward = {"w1": (hidden, dim), "w2": (dim, hidden), "w3": (hidden, dim)}
        shapes |= {f"layers.{layer}.feed_forward.{name}": shape for name, shape in feed_forward.items()}
        shapes |= {f"layers.{layer}.attention_norm": (dim,), f"layers.{layer}.ffn_norm": (dim,)}
    shapes |= {} if header.shared else {"output": (header.vocab, dim)}
    return {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def quantised(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    grouped = weight.float().reshape(-1, group)
    scale = torch.abs(grouped).max(dim=1).values / 127.0
    return torch.round(grouped / scale[:, None]).to(torch.int8), scale


def tables(header: Header) -> list[Tensor]:
    dim = header.dim // header.heads
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, dim, 2)[: (dim // 2)].float() / dim))
    angles = torch.outer(torch.arange(header.context), frequencies).float()
    return [torch.cos(angles), torch.sin(angles)]


def floats(tensor: Tensor) -> bytes:
    numbers = tensor.flatten().tolist()
    return struct.pack(f"<{len(numbers)}f", *numbers)


def exported(header: Header, weights: dict[str, Tensor], *, scales_last: bool = False) -> bytes:
    def every(*names: str) -> list[Tensor]:
        return [weights[f"layers.{layer}.{name}.weight"] for name in names for layer in range(header.layers)]

    sizes = (header.dim, header.hidden_dim, header.layers, header.heads, header.kv_heads)
    attention = [f"attention.{name}" for name in ("wq", "wk", "wv", "wo")]
    feed_forward = [f"feed_forward.{name}" for name in ("w1", "w2", "w3")]
    tokens, norm = weights["tok_embeddings.weight"], weights["norm.weight"]
    output = [] if header.shared else [weights["output.weight"]]
    if header.version == 0:
        vocab = header.vocab if header.shared else -header.vocab
        order = [tokens, *every("attention_norm", *attention, "ffn_norm", *feed_forward), norm]
        start = struct.pack("<7i", *sizes, vocab, header.context)
        return start + b"".join(map(floats, [*order, *tables(header), *output]))
    start = struct.pack("<Ii7iB", 0x616B3432, header.version, *sizes, header.vocab, header.context, header.shared)
    norms, matrices = [*every("attention_norm", "ffn_norm"), norm], [tokens, *every(*attention, *feed_forward), *output]
    if header.version == 1:
        return start.ljust(256, b"\0") + b"".join(map(floats, [*norms, *matrices]))
    start = (start + struct.pack("<i", header.group_size)).ljust(256, b"\0")
    pairs = [quantised(matrix, header.group_size) for matrix in matrices]
    behind = b"".join(map(floats, norms))
    if scales_last:
        return start + behind + b"".join(raw(q) for q, _ in pairs) + b"".join(floats(s) for _, s in pairs)
    return start + behind + b"".join(raw(q) + floats(s) for q, s in pairs)


def opened(path: Path, content: bytes) -> Llama2cFile:
    path.write_bytes(content)
    return read_llama2c(LocalFile(path))


# --- read and laid out -----------------------------------------------------------------------------


@PER_TEST
@given(header=headers())
def test_what_export_wrote_is_read(path, header):
    weights = model(header)
    found = opened(path, exported(header, weights))
    assert found.header == header
    assert found.file.size == path.stat().st_size
    tensors = dict(found.file.tensors)
    for name, weight in weights.items():
        if header.version == 2 and weight.ndim == 2:
            numbers, scales = quantised(weight, header.group_size)
            rows, columns = weight.shape
            stored = tensors.pop(f"{name}.scales")
            assert (stored.dtype, stored.shape) == (DType.FLOAT32, (rows, columns // header.group_size))
            assert gather(stored) == raw(scales)
            weight = numbers.reshape(weight.shape)
        stored = tensors.pop(name)
        assert (stored.dtype, stored.shape) == (dtype_of(weight), tuple(weight.shape)), name
        assert gather(stored) == raw(weight), name
    rest = dict(zip(("freqs_cos", "freqs_sin"), tables(header), strict=True)) if header.version == 0 else {}
    assert {name: gather(tensor) for name, tensor in tensors.items()} == {n: raw(t) for n, t in rest.items()}


def filled(header: Header, weights: dict[str, Tensor]) -> bytes:
    """The file from its layout, each byte written once."""
    layout = lay_out(header)
    data = {name: raw(weight) for name, weight in weights.items()}
    for name, weight in weights.items() if header.version == 2 else []:
        if weight.ndim == 2:
            numbers, scales = quantise_groups(weight.numpy(), header.group_size)
            data |= {name: numbers.tobytes(), f"{name}.scales": scales.tobytes()}
    content = layout.header
    for offset, piece in sorted([*((offset, data[name]) for name, offset in layout.offsets), *layout.pieces]):
        assert offset == len(content)
        content += piece
    assert len(content) == layout.size
    assert len(layout.offsets) == len(data)
    return content


@PER_TEST
@given(header=headers())
def test_the_file_is_exports(path, header):
    """Byte for byte, but for the tables of version 0: no C program reads them any more."""
    weights = model(header)
    theirs, ours = exported(header, weights), filled(header, weights)
    assert len(ours) == len(theirs)
    start, end = len(theirs), len(theirs)
    if header.version == 0:
        found = opened(path, theirs).file.tensors
        start, end = found["freqs_cos"].offset, found["freqs_sin"].offset + found["freqs_sin"].nbytes
    assert (ours[:start], ours[end:]) == (theirs[:start], theirs[end:])
    opened(path, ours)


@pytest.mark.parametrize("head_dim", [8, 48, 64, 128])
def test_the_rotary_tables_are_one_unit_from_exports(head_dim):
    header = replace(SMALL, version=0, context=2048, dim=head_dim, heads=1, kv_heads=1)
    for ours, theirs in zip(rotary_tables(2048, head_dim), tables(header), strict=True):
        assert ours.dtype == np.float32
        assert ours.shape == (2048, head_dim // 2)
        np.testing.assert_array_max_ulp(ours, theirs.numpy(), maxulp=1)


def test_a_model_of_15_million_has_the_size_it_is_known_by():
    """stories15M.bin, the file llama2.c's own instructions fetch."""
    sizes = {"dim": 288, "hidden_dim": 768, "layers": 6, "heads": 6, "kv_heads": 6, "vocab": 32000, "context": 256}
    header = Header(version=0, shared=True, group_size=0, **sizes)
    assert lay_out(header).size == 60_816_028


def test_only_version_0_makes_tables():
    """The longest context a header can name would need 250 GB of them."""
    assert lay_out(replace(SMALL, context=(1 << 31) - 1)).pieces == ()


# --- refused ---------------------------------------------------------------------------------------


@VERSIONS
def test_a_file_of_another_length_is_refused(path, header):
    content = exported(header, model(header))
    opened(path, content)
    for length in [*range(300), *range(len(content) - 20, len(content))]:
        with pytest.raises(CheckpointError):
            opened(path, content[:length])
    with pytest.raises(CheckpointError):
        opened(path, content + b"\0")


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("number", [0, -1, (1 << 31) - 1, -(1 << 31), 5])
@VERSIONS
def test_other_sizes_are_refused(path, header, place, number):
    content = bytearray(exported(header, model(header)))
    start = 4 * place + (8 if header.version else 0)
    content[start : start + 4] = struct.pack("<i", number)
    if header.version and place == 6 and number > 0:  # later versions have nothing as long as the context
        assert opened(path, content).header.context == number
    else:
        with pytest.raises(CheckpointError) as caught:
            opened(path, content)
        assert str(path) in caught.value.summary
        assert "\n" not in caught.value.summary
        assert caught.value.advice


def test_a_header_that_claims_too_many_layers_is_refused(path):
    """As long as its sizes make, for which its tensors would have to be counted one by one."""
    layers, floats_per_layer = 1 << 20, 2 * 2 + 4 * 4 + 3 * 2
    with path.open("wb") as file:
        file.write(struct.pack("<Ii7iB", 0x616B3432, 1, 2, 1, layers, 1, 1, 1, 1, 1))
        file.truncate(256 + 4 * (layers * floats_per_layer + 4))
    with pytest.raises(CheckpointError, match="1048576"):
        read_llama2c(LocalFile(path))


@pytest.mark.parametrize("group", [0, -8, 3, 16, 1 << 30])
def test_groups_that_do_not_fill_rows_are_refused(path, group):
    content = bytearray(exported(GROUPED, model(GROUPED)))
    content[37:41] = struct.pack("<i", group)
    with pytest.raises(CheckpointError, match=f"groups of {group} in rows of 16 and 24"):
        opened(path, content)


def test_scales_at_the_end_are_refused(path):
    with pytest.raises(CheckpointError, match="negative scales"):
        opened(path, exported(GROUPED, model(GROUPED), scales_last=True))


@pytest.mark.parametrize("version", [-1, 0, 3, 1 << 30])
def test_an_unknown_version_is_refused(path, version):
    content = bytearray(exported(SMALL, model(SMALL)))
    content[4:8] = struct.pack("<i", version)
    with pytest.raises(CheckpointError, match="of version"):
        opened(path, content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>" * 20, "an HTML page"),
        (b"24ka\1\0\0\0", "truncated"),
        (b"\x80\x02}q\0." * 100, "no llama2.c file"),
        (bytes(28), "no llama2.c file"),
    ],
)
def test_what_is_no_such_file_is_said(path, content, words):
    with pytest.raises(CheckpointError, match=words):
        opened(path, content)


@settings(PER_TEST, max_examples=300)
@given(header=headers(), edits=EDITS)
def test_a_damaged_file_is_read_or_refused(path, header, edits):
    content = exported(header, model(header))
    length = 28 if header.version == 0 else 256
    with suppress(CheckpointError):
        found = opened(path, edited(content[:length], edits) + content[length:])
        assert sum(tensor.nbytes for tensor in found.file.tensors.values()) < found.file.size


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (replace(SMALL, heads=3), "3 heads in 16 dimensions"),
        (replace(SMALL, heads=16), "16 heads in 16 dimensions"),
        (replace(SMALL, kv_heads=3), "3 key-value heads for 4 heads"),
        (replace(SMALL, context=1 << 31), "sizes"),
        (replace(SMALL, vocab=0), "sizes"),
        (replace(SMALL, version=3), "version 3"),
        (replace(SMALL, group_size=8), "groups in version 1"),
        (replace(GROUPED, group_size=16), "groups of 16 in rows of 16 and 24"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(header, words):
    with pytest.raises(UsageError, match=words):
        lay_out(header)


# --- groups ----------------------------------------------------------------------------------------

BITS = st.lists(st.integers(0, (1 << 32) - 1), min_size=8, max_size=64).map(lambda bits: bits[: len(bits) // 8 * 8])
DENORMAL = st.lists(st.integers(0, 400) | st.just(0), min_size=8, max_size=8)


@PER_TEST
@given(bits=BITS | DENORMAL, group=st.sampled_from([1, 2, 4, 8]))
@example(bits=[0] * 8, group=8)
@example(bits=[0x7F800000, 0xFF800000, 0x7FC00000, 1, 0x3F800000, 0, 0, 0x80000000], group=1)
@example(bits=[190, 100, 1, 0, 0x80000001, 30, 12, 127], group=8)
def test_any_numbers_are_quantised_as_export_does(bits, group):
    values = np.array(bits, np.uint32).view(np.float32).reshape(-1, 8)
    numbers, scales = quantise_groups(values, group)
    theirs, their_scales = quantised(torch.from_numpy(values), group)
    assert numbers.tobytes() == raw(theirs)
    np.testing.assert_array_equal(scales.ravel(), their_scales.numpy())
    assert (numbers.shape, scales.shape) == (values.shape, (len(values), 8 // group))


def test_weights_come_back_within_half_a_step():
    values = torch.randn(64, 256, generator=torch.Generator().manual_seed(1)).numpy()
    numbers, scales = quantise_groups(values, 64)
    steps = np.repeat(scales, 64, axis=1)
    assert (np.abs(dequantise_groups(numbers, scales) - values) <= steps * 0.5001).all()
    assert (np.abs(dequantise_groups(numbers, scales[:, ::-1]) - values) > steps).any()  # the control


@pytest.mark.parametrize(("dim", "hidden", "group"), [(4096, 11008, 64), (288, 768, 32), (64, 172, 4), (63, 64, 1)])
def test_groups_divide_every_row(dim, hidden, group):
    assert group_size(dim, hidden) == group
