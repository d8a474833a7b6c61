"""Contract: matrices held in codes give the logits of their values, and the memory is known before it is taken."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from llama_convert.cli.demo import EMBEDDED
from llama_convert.convert import Request, SpaceError, UsageError, convert_checkpoint, plan_conversion
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify import llama, load, memory
from llama_convert.verify.decoding import all_logits, new_cache
from llama_convert.verify.forward import logits
from llama_convert.verify.matrices import Dense
from llama_convert.verify.memory import available, cache_bytes, check_memory, weights_bytes
from llama_convert.verify.model import Holding, load_model
from tests.checkpoints import CASES
from tests.verify.quantised_files import write_quantised

TOKENS = list(range(3, 67))
BFLOAT16, FLOAT32 = Holding(dtype=torch.bfloat16), Holding(dtype=torch.float32)


def of_model(model):
    with torch.inference_mode():
        return all_logits(model, torch.tensor([TOKENS]))[0]


def distance(found, wanted):
    """Mean square, relative to the spread of the logits."""
    return float((found - wanted).square().mean().sqrt() / wanted.std())


def swapped(name, data):
    """Two blocks of a row exchanged, in one matrix."""
    if name == "blk.0.ffn_down.weight":
        size = 18 if data.shape[1] % 34 else 34
        data[:, :size], data[:, size : 2 * size] = data[:, size : 2 * size].copy(), data[:, :size].copy()


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q8_0], ids=lambda kind: kind.name)
def test_codes_are_multiplied_as_well_as_their_values(kind, tmp_path):
    """The reference unpacks them to float32; values held in bfloat16 show what that type's rounding is."""
    checkpoint = open_checkpoint(write_quantised(tmp_path / "right.gguf", kind), "3")
    wanted = logits(checkpoint, TOKENS)
    held = load_model(checkpoint, BFLOAT16)
    assert type(held.layers[0].query).__name__ == "Blocks"
    values = load_model(checkpoint, FLOAT32)
    noise = distance(of_model(in_bfloat16(values)), wanted)
    assert distance(of_model(values), wanted) < 1e-5 < noise
    assert distance(of_model(held), wanted) < 1.5 * noise
    wrong = open_checkpoint(write_quantised(tmp_path / "wrong.gguf", kind, spoil=swapped), "3")
    assert distance(of_model(load_model(wrong, BFLOAT16)), wanted) > 5 * noise


def in_bfloat16(model):
    """The same model with its values rounded to bfloat16, none of them in codes."""

    def rounded(held):
        return held.bfloat16() if isinstance(held, torch.Tensor) else Dense(held.weight.bfloat16())

    layers = tuple(
        replace(layer, **{field.name: rounded(getattr(layer, field.name)) for field in fields(layer)})
        for layer in model.layers
    )
    return replace(
        model,
        dtype=torch.bfloat16,
        layers=layers,
        tokens=replace(model.tokens, dtype=torch.bfloat16),
        final_norm=rounded(model.final_norm),
        head=rounded(model.head),
    )


@pytest.mark.parametrize("kind", [Type.F32, Type.Q4_0, Type.Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("quantise", [None, DType.Q4_0, DType.Q8_0], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_memory_of_weights_is_known_before(kind, quantise, dtype, stored):
    checkpoint, holding = stored(kind), Holding(dtype=dtype, quantise=quantise)
    assert weights_bytes(checkpoint, holding) == load_model(checkpoint, holding).nbytes


def test_what_is_mapped_takes_none(stored):
    checkpoint = stored(Type.F32)
    found = weights_bytes(checkpoint, FLOAT32)
    assert found == (2 * checkpoint.config.layers + 1) * checkpoint.config.hidden_size * 4
    assert found < load_model(checkpoint, FLOAT32).nbytes / 100


def test_the_memory_of_a_cache_is_known_before(tmp_path):
    case = next(case for case in CASES if case.name == "3.1-16shards-kv-twice")
    checkpoint = open_checkpoint(case.write(tmp_path / "meta"))
    cache = new_cache(load_model(checkpoint, BFLOAT16), [3, 5, 4], 70)
    assert cache_bytes(checkpoint, BFLOAT16, 3, 70) == cache.nbytes


def test_too_little_memory_is_said(stored, monkeypatch):
    checkpoint = stored(Type.F32)
    needed = weights_bytes(checkpoint, BFLOAT16) + cache_bytes(checkpoint, BFLOAT16, 2, 100)
    monkeypatch.setattr(memory, "available", lambda device: needed)
    check_memory(checkpoint, BFLOAT16, 2, 100)
    with pytest.raises(SpaceError, match="keys and values"):
        check_memory(checkpoint, BFLOAT16, 2, 101)


def test_a_gpu_that_is_full_is_said(make_pair, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    meta, _ = make_pair(next(case for case in CASES if case.name == "3"))
    monkeypatch.setattr(llama, "load_model", full)
    with pytest.raises(SpaceError, match="GPU"):
        load(meta)


def test_this_machine_has_some():
    assert 10**8 < available("cpu") < 10**14


def test_codes_are_for_bfloat16_on_a_cpu(make_pair):
    meta, _ = make_pair(next(case for case in CASES if case.name == "3"))
    for options in ({"dtype": "float32"}, {"dtype": "float16"}):
        with pytest.raises(UsageError, match="multiplied in bfloat16"):
            load(meta, quantise=DType.Q4_0, **options)
    assert load(meta, quantise=DType.Q8_0).model.dtype is torch.bfloat16


def test_codes_are_computed_with_in_bfloat16_where_nothing_else_is_said(tmp_path):
    """Whatever type the embedding beside them has, by which a model's own type is known."""
    request = Request(quantize=DType.Q4_0, embedding_type=DType.FLOAT16)
    folder = convert_checkpoint(plan_conversion(EMBEDDED, to="gguf", request=request), tmp_path / "gguf").folder
    assert open_checkpoint(folder).dtype is DType.FLOAT16
    assert load(folder).model.dtype is torch.bfloat16
    assert load(folder, dtype="float16").model.dtype is torch.float16
    assert load(EMBEDDED, dtype="float32").model.dtype is torch.float32


@pytest.mark.parametrize("dtype", [DType.Q4_0, DType.Q8_0], ids=str)
def test_shards_that_meet_in_columns_are_held_in_codes_too(dtype):
    """The embedded model has two: what goes into a shard of columns is a part of each vector."""
    checkpoint = open_checkpoint(EMBEDDED)
    assert len(checkpoint.files) == 2
    wanted = of_model(load_model(checkpoint, replace(FLOAT32, quantise=None)))
    found = of_model(load_model(checkpoint, replace(BFLOAT16, quantise=dtype)))
    plain = distance(of_model(load_model(checkpoint, BFLOAT16)), wanted)
    assert plain < distance(found, wanted) < {DType.Q4_0: 0.35, DType.Q8_0: 3 * plain}[dtype]
    # Negative control: the shards of one matrix in the other order.
    model = load_model(checkpoint, replace(BFLOAT16, quantise=dtype))
    first, *others = model.layers
    down = replace(first.down, pieces=first.down.pieces[::-1])
    assert distance(of_model(replace(model, layers=(replace(first, down=down), *others))), wanted) > 0.5


@pytest.mark.parametrize("shape", [(1, 96), (1, 1, 96), (2, 1, 96), (1, 5, 96)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_one_vector_is_multiplied_as_one_of_many_is(shape, dtype):
    """A vector that is alone goes through another kernel: the same sums in float32, rounded once to the type."""
    generator = torch.Generator().manual_seed(0)
    weight, vectors = (torch.randn(size, generator=generator).to(dtype) for size in ((64, 96), shape))
    found = Dense(weight).times(vectors)
    exact = vectors.double() @ weight.double().T
    # What a sum of so many products can lose, in any order; and half a step of the type.
    summed = shape[-1] * 2**-24 * (vectors.double().abs() @ weight.double().abs().T)
    assert found.shape == exact.shape
    assert ((found.double() - exact).abs() <= summed + torch.finfo(dtype).eps / 2 * (exact.abs() + summed)).all()
