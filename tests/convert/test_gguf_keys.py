"""What GGUF files say besides weights: keys, vocabulary and rope_freqs, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from llama_convert.convert.architecture import LlamaConfig, RopeScaling
from llama_convert.convert.formats.gguf_config import rope_divisors
from tests.checkpoints import CASES, Case, MetaModel, random_model, write_meta
from tests.convert import gguf_models
from tests.convert.gguf_models import gguf_weights, llama_keys, read_theirs
from tests.convert.support import converted

BY_NAME = {case.name: case for case in CASES}
Checkpoint = Callable[[Case], Path]

CONTEXTS = {"1": 2048, "2": 4096, "code": 16384, "3": 8192, "3.1": 131072, "3.2": 131072}
ENDS = {("sentencepiece", False): 2, ("sentencepiece", True): 2, ("tiktoken", False): 513, ("tiktoken", True): 521}


@pytest.mark.parametrize(
    ("name", "instruct"),
    [("1", False), ("code", False), ("3", False), ("3.2", False), ("2", True), ("3", True), ("3.1", True)],
)
def test_keys_are_those_of_llama_cpp(name: str, instruct: bool, meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """All of them with their types; arrays are held against the package's own writing elsewhere."""
    case, model = BY_NAME[name], BY_NAME[name].model()
    (path,) = converted(meta_checkpoint(case), tmp_path / "out", "gguf", case.version, instruct=instruct).glob("*.gguf")
    keys, tensors = read_theirs(path)
    arrays = {key: keys.pop(key) for key in list(keys) if keys[key][0][0] == "ARRAY"}
    wanted: dict[str, Any] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": name,
        "general.size_label": gguf.size_label(model_parameters(model), 0, 0, 0),
        **llama_keys(model, CONTEXTS[name]),
        "general.file_type": 1 if name == "1" else 32,
        "general.quantization_version": 2,
        "tokenizer.ggml.bos_token_id": 512 if model.tokenizer == "tiktoken" else 1,
        "tokenizer.ggml.eos_token_id": ENDS[model.tokenizer, instruct],
        "tokenizer.ggml.add_bos_token": True,
    }
    if model.tokenizer == "tiktoken":
        wanted |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe"}
    else:
        wanted |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
        wanted |= {"tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.add_eos_token": False}
    template = keys.pop("tokenizer.chat_template", None)
    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}
    assert {key: kind for key, (kind, _) in keys.items()} == {key: (kinds[type(wanted[key])],) for key in wanted}
    rounded = {key: float(np.float32(value)) if type(value) is float else value for key, value in wanted.items()}
    assert {key: value for key, (_, value) in keys.items()} == rounded
    assert (template is not None) is instruct
    assert ("rope_freqs.weight" in tensors) is (name in ("3.1", "3.2"))
    assert set(arrays) == {
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges" if model.tokenizer == "tiktoken" else "tokenizer.ggml.scores",
    }


def model_parameters(model: MetaModel) -> int:
    return sum(weight.numel() for weight in gguf_weights(model).values())


@pytest.mark.parametrize("name", ["2", "3.1"])
def test_vocabularies_are_the_packages_bytes(name: str, meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """tokens, scores, types and merges as made by libraries of others from Meta's own tokenizer.model."""
    source = meta_checkpoint(BY_NAME[name])
    (path,) = converted(source, tmp_path / "out", "gguf", instruct=True).glob("*.gguf")
    ours = read_theirs(path)[0]
    template = ours["tokenizer.chat_template"][1]
    if name == "2":
        vocabulary = gguf_models.sentencepiece_vocabulary(source / "tokenizer.model")
    else:
        special = ours["tokenizer.ggml.tokens"][1][512:]
        assert [special[i] for i in (0, 1, 4, 6, 7, 8, 9, 10)] == [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|finetune_right_pad_id|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
            "<|python_tag|>",
        ]
        vocabulary = gguf_models.tiktoken_vocabulary(source / "tokenizer.model", special, "<|eot_id|>", template)
    theirs_path = tmp_path / "theirs.gguf"
    gguf_models.write_theirs(theirs_path, random_model(name), vocabulary=vocabulary)
    theirs = {key: value for key, value in read_theirs(theirs_path)[0].items() if key.startswith("tokenizer.ggml.")}
    assert {key: value for key, value in ours.items() if key.startswith("tokenizer.ggml.")} == theirs


# Theirs are computed in float32: wavelengths are off by two units in the last place at most, 2.4e-7, and between the
# divisors 1 and 32 the ramp makes 32 / 3 times that of it, 2.5e-6; its own operations are a few units more.
OF_FLOAT32 = 3e-6


@pytest.mark.parametrize(
    ("head_dim", "factor", "ones", "between", "full"),
    [(64, 32.0, 15, [1.651, 3.292, 9.667], 14), (128, 8.0, 29, 6, 29)],
)
def test_divisors_of_the_released_models(
    head_dim: int, factor: float, ones: int, between: int | list[float], full: int
) -> None:
    """As llama.cpp computes them; the numbers are those of Llama 3.2 1B and of 3.1."""
    found = rope_divisors(scaled_config(head_dim, factor))
    np.testing.assert_allclose(found, gguf_models.rope_divisors(head_dim, 500000.0, factor), rtol=OF_FLOAT32)
    assert (found.dtype, int((found == 1).sum()), int((found == factor).sum())) == (np.float32, ones, full)
    middle = found[(found > 1) & (found < factor)]
    assert len(middle) == between if isinstance(between, int) else middle == pytest.approx(between, abs=5e-4)


def scaled_config(head_dim: int, factor: float) -> LlamaConfig:
    scaling = RopeScaling(factor=factor, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=8192)
    return LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        layers=16,
        heads=32,
        kv_heads=8,
        head_dim=head_dim,
        vocab_size=128256,
        norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=scaling,
        context=131072,
        tied=True,
    )


@pytest.mark.parametrize("name", ["3.1", "3.2"])
def test_divisors_in_the_file(name: str, meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    case = BY_NAME[name]
    (path,) = converted(meta_checkpoint(case), tmp_path / "out", "gguf", case.version).glob("*.gguf")
    (tensor,) = (found for found in gguf.GGUFReader(path).tensors if found.name == "rope_freqs.weight")
    assert tensor.tensor_type is Type.F32
    wanted = gguf_models.rope_divisors(16, 500000.0, case.model().rope_factor)
    np.testing.assert_allclose(tensor.data, wanted, rtol=OF_FLOAT32)


def test_rows_behind_the_last_token(tmp_path: Path) -> None:
    """A padded vocabulary: llama.cpp wants a token for every row."""
    model = random_model("3.1")
    write_meta(model, tmp_path / "meta", tokenizer="tiktoken")
    folder = tmp_path / "hf"
    converted(tmp_path / "meta", folder, "hf")
    pad_huggingface(folder, rows=800)
    tokens = read_theirs(*converted(folder, tmp_path / "out", "gguf").glob("*.gguf"))[0]["tokenizer.ggml.tokens"][1]
    assert (len(tokens), tokens[767:770]) == (800, ["<|reserved_special_token_247|>", "[PAD768]", "[PAD769]"])


def pad_huggingface(folder: Path, rows: int) -> None:
    """More rows in embedding and head than there are tokens."""
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], weights[name][: rows - len(weights[name])]])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
