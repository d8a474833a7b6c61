"""GGUF read: back to the very files that Meta's own folder gives, and from files that the gguf package wrote."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

from llama_convert.convert import convert_checkpoint, plan_conversion
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.formats import open_checkpoint
from tests.checkpoints import CASES, Case, MetaModel, random_model
from tests.convert import gguf_models
from tests.convert.gguf_models import gguf_name, rope_divisors, vocabulary_of, write_theirs
from tests.convert.support import converted, small_files

BY_NAME = {case.name: case for case in CASES}
QUANTISED = [kind for kind, (block, _) in gguf.GGML_QUANT_SIZES.items() if block > 1]
NOT_MODELS = ("Q8_1", "Q8_K", "Q1_0")  # of activations, or too new to be read
Checkpoint = Callable[[Case], Path]


@pytest.mark.parametrize(
    ("name", "instruct"),
    [
        ("1", False),
        ("2", True),
        ("code-grouped-4shards", False),
        ("3", True),
        ("3.1", False),
        ("3.1", True),
        ("3.2", True),
        ("3.2-untied", False),
        ("guard-3", True),
    ],
)
def test_there_and_back_gives_metas_files(
    name: str, instruct: bool, meta_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Weights, config, generation config and tokenizer, byte for byte as straight from Meta's folder."""
    case = BY_NAME[name]
    straight = converted(meta_checkpoint(case), tmp_path / "hf", "hf", case.version, instruct=instruct)
    middle = converted(meta_checkpoint(case), tmp_path / "gguf", "gguf", case.version, instruct=instruct)
    around = small_files(converted(middle, tmp_path / "around", "hf"))
    wanted = small_files(straight)
    assert sorted(around) == sorted(wanted)
    assert [file for file in wanted if around[file] != wanted[file]] == []


def test_a_norm_that_bfloat16_cannot_hold_stays_float32(meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Negative control of the norms that come back in the model's type: one value more precise, no loss."""
    model = random_model("3.1")
    model.weights["norm.weight"] = model.weights["norm.weight"].float()
    model.weights["norm.weight"][7] += 2**-20
    write_theirs(
        tmp_path / "a.gguf", model, lambda name: Type.BF16, vocabulary=vocabulary_of(meta_checkpoint(BY_NAME["3.1"]))
    )
    found = load_file(converted(tmp_path / "a.gguf", tmp_path / "out", "hf") / "model.safetensors")
    assert torch.equal(found["model.norm.weight"], model.weights["norm.weight"])
    others = {name: tensor.dtype for name, tensor in found.items() if name != "model.norm.weight"}
    assert set(others.values()) == {torch.bfloat16}
    assert found["model.norm.weight"].dtype is torch.float32


# --- config --------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [8192, 4096, 2048, 131072])
@pytest.mark.parametrize(("head_dim", "factor"), [(64, 32.0), (128, 8.0), (64, 8.0), (128, 4.5)])
def test_scaling_is_recovered(head_dim: int, factor: float, context: int, tmp_path: Path) -> None:
    """From llama.cpp's own float32 numbers, with the theta of the released models."""
    model = random_model("3.1", dim=2 * head_dim, heads=2, kv_heads=1, layers=1)
    write_theirs(tmp_path / "a.gguf", model, divisors=rope_divisors(head_dim, 500000.0, factor, context))
    config = open_checkpoint(tmp_path / "a.gguf").config
    assert config.rope_scaling is not None
    assert (config.rope_theta, config.norm_eps, config.head_dim) == (500000.0, 1e-5, head_dim)
    assert (config.rope_scaling.factor, config.rope_scaling.original_context) == (factor, context)
    assert (config.rope_scaling.low_frequency_factor, config.rope_scaling.high_frequency_factor) == (1.0, 4.0)


@pytest.mark.parametrize("theta", [10000.0, 500000.0, 1000000.0, 123456.78])
@pytest.mark.parametrize("eps", [1e-5, 1e-6, 2e-5])
def test_constants_come_back_as_decimals(theta: float, eps: float, tmp_path: Path) -> None:
    model = random_model("2", layers=1, params={"rope_theta": theta, "norm_eps": eps})
    write_theirs(tmp_path / "a.gguf", model)
    config = open_checkpoint(tmp_path / "a.gguf").config
    assert config.rope_theta == pytest.approx(theta, rel=2**-24)  # it is stored in float32
    assert (f"{config.rope_theta:.8g}", config.norm_eps) == (f"{theta:.8g}", eps)


def broken(divisors: np.ndarray) -> dict[str, np.ndarray]:
    changed = divisors.copy()
    changed[32] *= 1.01
    return {
        "one off by a hundredth": changed,
        "reversed": divisors[::-1].copy(),
        "too short": divisors[:-1].copy(),
        "below one": (1 / divisors).astype(np.float32),
        "not finite": np.where(divisors == 8, np.inf, divisors).astype(np.float32),
        "no number": np.where(divisors == 8, np.nan, divisors).astype(np.float32),
        "another ramp": np.linspace(1, 8, len(divisors), dtype=np.float32),
        "half precision": divisors.astype(np.float16),
    }


@pytest.mark.parametrize("name", broken(rope_divisors(128, 500000.0, 8.0)))
def test_foreign_divisors_are_refused(name: str, tmp_path: Path) -> None:
    """Such as LongRoPE's: a Hugging Face config of Llama could not say them."""
    model = random_model("3.1", dim=256, heads=2, kv_heads=1, layers=1)
    write_theirs(tmp_path / "a.gguf", model, divisors=broken(rope_divisors(128, 500000.0, 8.0))[name])
    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight is"):
        open_checkpoint(tmp_path / "a.gguf")


def test_divisors_of_one_are_no_scaling(tmp_path: Path) -> None:
    write_theirs(tmp_path / "a.gguf", random_model("3"), divisors=np.ones(8, np.float32))
    assert open_checkpoint(tmp_path / "a.gguf").config.rope_scaling is None


def test_optional_keys_may_be_absent(meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """As in files of 2023: as many kv heads as heads, theta 10000, the head's size from the model's."""
    absent = ("head_count_kv", "key_length", "value_length")
    keys = dict.fromkeys((*(f"llama.attention.{key}" for key in absent), "llama.rope.freq_base", "llama.vocab_size"))
    model = random_model("2")
    write_theirs(tmp_path / "a.gguf", model, keys=keys, vocabulary=vocabulary_of(meta_checkpoint(BY_NAME["2"])))
    checkpoint = open_checkpoint(tmp_path / "a.gguf")
    config = checkpoint.config
    assert (config.heads, config.kv_heads, config.head_dim, config.rope_theta) == (12, 12, 16, 10000.0)
    assert (checkpoint.version.name, config.vocab_size, config.tied) == ("2", 512, False)
    assert_weights(converted(tmp_path / "a.gguf", tmp_path / "out", "hf"), model, None, torch.float32)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("llama.block_count", None, "llama.block_count: missing"),
        ("llama.attention.layer_norm_rms_epsilon", None, "llama.attention.layer_norm_rms_epsilon: missing"),
        ("llama.attention.head_count", 0, "llama.attention.head_count is 0"),
        ("llama.embedding_length", "192", "llama.embedding_length is '192'"),
        ("llama.block_count", 70_000, "more than any model has"),
        ("llama.attention.head_count_kv", 5, "12 heads are no multiple of 5 kv heads"),
        ("llama.rope.dimension_count", 8, "llama.rope.dimension_count is 8, wanted all 16 dimensions"),
        ("llama.attention.layer_norm_rms_epsilon", 0.0, "layer_norm_rms_epsilon is 0.0"),
        ("llama.rope.freq_base", float("nan"), "llama.rope.freq_base is nan"),
        ("llama.expert_count", 8, "llama.expert_count is 8, which no Llama has"),
        ("llama.rope.scaling.type", "yarn", "llama.rope.scaling.type is 'yarn', which no Llama has"),
        ("llama.rope.scaling.factor", 4.0, "llama.rope.scaling.factor is 4.0, which no Llama has"),
        ("llama.rope.scale_linear", 2.0, "llama.rope.scale_linear is 2.0, which no Llama has"),
        ("llama.feed_forward_length", 512, "the file has (576, 192), its header says (512, 192)"),
        ("llama.block_count", 1, "unknown  blk.1.attn_norm.weight"),
        ("llama.block_count", 3, "missing  blk.2.attn_norm.weight"),
        ("llama.attention.key_length", 32, "blk.0.attn_q.weight: the file has (192, 192), its header says (384, 192)"),
        ("general.architecture", "qwen2", "general.architecture is 'qwen2', wanted 'llama'"),
    ],
)
def test_keys_that_do_not_fit(key: str, value: Any, words: str, tmp_path: Path) -> None:
    keys = {key: value} | ({"llama.rope.dimension_count": None} if key.endswith("key_length") else {})
    write_theirs(tmp_path / "a.gguf", random_model("2"), keys=keys)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "a.gguf")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("llama.expert_count", 0), ("llama.rope.scaling.type", "none"), ("llama.rope.scale_linear", 1.0)]
)
def test_keys_that_say_nothing(key: str, value: Any, tmp_path: Path) -> None:
    write_theirs(tmp_path / "a.gguf", random_model("2"), keys={key: value})
    assert open_checkpoint(tmp_path / "a.gguf").config.rope_scaling is None


# --- weights -------------------------------------------------------------------------------------


def assert_weights(folder: Path, model: MetaModel, values: gguf_models.Values | None, dtype: torch.dtype) -> None:
    """Hugging Face's tensors are these values rounded once; rows of q and k half-split by the published formula."""
    found = load_file(folder / "model.safetensors")
    names = {
        "self_attn.q_proj": "wq",
        "self_attn.k_proj": "wk",
        "self_attn.v_proj": "wv",
        "self_attn.o_proj": "wo",
        "mlp.gate_proj": "w1",
        "mlp.up_proj": "w3",
        "mlp.down_proj": "w2",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    tops = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}
    assert len(found) == len(model.weights)
    for name in model.weights:
        module = name.split(".")[-2]
        own = {meta: theirs for theirs, meta in {**names, **tops}.items()}[module]
        prefix = f"model.layers.{name.split('.')[1]}." if name.startswith("layers.") else ""
        wanted = torch.from_numpy(values[gguf_name(name)]) if values else model.weights[name].float()
        if module in ("wq", "wk"):
            wanted = wanted.view(-1, model.head_dim // 2, 2, wanted.shape[1]).transpose(1, 2).reshape(wanted.shape)
        assert torch.equal(found[f"{prefix}{own}.weight"], wanted.to(dtype)), name


@pytest.mark.parametrize("dtype", [None, DType.FLOAT32], ids=["bfloat16", "float32"])
def test_every_quantised_type_is_read(dtype: DType | None, meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """One matrix after the other in another type: their values as gguf.quants dequantises them, rounded once."""
    kinds = [kind for kind in QUANTISED if kind.name not in NOT_MODELS]
    assert len(kinds) == len([dtype for dtype in DType if dtype.block > 1])
    model = random_model("3", dim=256, heads=4, layers=4, params={"multiple_of": 256})
    turn = iter([*kinds, *kinds])
    values = write_theirs(
        tmp_path / "a.gguf", model, lambda name: next(turn), vocabulary=vocabulary_of(meta_checkpoint(BY_NAME["3"]))
    )
    folder = converted(tmp_path / "a.gguf", tmp_path / "out", "hf", dtype=dtype)
    wide = dtype is DType.FLOAT32
    widest = {name: found.astype(np.float32) for name, found in values.items()}
    assert_weights(folder, model, widest, torch.float32 if wide else torch.bfloat16)


def q4_k_m(name: str) -> Type:
    """As llama-quantize mixes them: more bits where it hurts most."""
    return Type.Q6_K if name.startswith(("output", "token_embd", "blk.1.attn_v", "blk.1.ffn_down")) else Type.Q4_K


def test_a_mix_of_k_types(meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Q4_K_M of a scaled model, as it is found on the Hub."""
    model = random_model("3.1", dim=256, heads=4, params={"multiple_of": 256})
    divisors = rope_divisors(64, 500000.0, 8.0)
    values = write_theirs(
        tmp_path / "a.gguf", model, q4_k_m, divisors=divisors, vocabulary=vocabulary_of(meta_checkpoint(BY_NAME["3.1"]))
    )
    plan = plan_conversion(tmp_path / "a.gguf")
    assert [note for note in plan.notes if "q4_k, q6_k" in note and "rounded to bfloat16" in note]
    folder = convert_checkpoint(plan, tmp_path / "out").folder
    assert_weights(folder, model, values, torch.bfloat16)
    config = json.loads((folder / "config.json").read_text())
    assert (config["rope_scaling"]["factor"], config["torch_dtype"]) == (8.0, "bfloat16")


def test_a_file_of_version_2(meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, path = random_model("2"), tmp_path / "a.gguf"
    write_theirs(path, model, lambda name: Type.F16, vocabulary=vocabulary_of(meta_checkpoint(BY_NAME["2"])))
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    path.write_bytes(data)
    folder = converted(path, tmp_path / "out", "hf")
    halves = {gguf_name(name): weight.half().float().numpy() for name, weight in model.weights.items()}
    assert_weights(folder, model, halves, torch.float16)


def test_a_file_without_vocabulary(tmp_path: Path) -> None:
    """It can be looked at and compared; for another format's files a tokenizer is wanted."""
    path = tmp_path / "a.gguf"
    write_theirs(path, random_model("3.1"), divisors=rope_divisors(16, 500000.0, 8.0))
    assert open_checkpoint(path).tokenizer is None
    with pytest.raises(CheckpointError, match="no tokenizer here"):
        plan_conversion(path)
