"""GGUF written: read by the gguf package's own reader, held against its arithmetic and llama.cpp's rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.architecture import LlamaConfig, RopeScaling
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.formats.gguf_config import rope_divisors
from tests.checkpoints import CASES, Case, MetaModel, random_model, write_meta
from tests.convert import gguf_models
from tests.convert.gguf_models import encoded, gguf_weights, llama_keys, read_theirs

BY_NAME = {case.name: case for case in CASES}
WRITABLE = {
    "float32": Type.F32,
    "float16": Type.F16,
    "bfloat16": Type.BF16,
    "q8_0": Type.Q8_0,
    "q4_0": Type.Q4_0,
}
DTYPES = {dtype.label: dtype for dtype in DType}
# Where an uneven or repeated model could go wrong; the rest of CASES differs in constants only.
LAYOUTS = ("1-4shards", "2-grouped-8shards", "3.1", "3.2", "3.2-tied-by-value", "3.1-16shards-kv-twice")
Checkpoint = Callable[[Case], Path]


def to_gguf(source: Path, folder: Path, version: str | None = None, **request: Any) -> list[Path]:
    """The files that the conversion writes, in their order."""
    plan = plan_conversion(source, to="gguf", request=Request(**request), llama_version=version)
    convert_checkpoint(plan, folder)
    return sorted(folder.glob("*.gguf"))


def expected(model: MetaModel, kind: Type, **other: Type) -> gguf_models.Stored:
    """Every tensor by the rules: norms float32, matrices of one type, rows of q and k in Meta's order."""
    kinds = {f"{name}.weight": found for name, found in other.items()}
    return {
        name: (found := Type.F32 if weight.dim() == 1 else kinds.get(name, kind), encoded(weight, found))
        for name, weight in gguf_weights(model).items()
    }


def without_frequencies(tensors: gguf_models.Stored) -> gguf_models.Stored:
    return {name: tensor for name, tensor in tensors.items() if name != "rope_freqs.weight"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_tensors_are_metas_bits(name: str, meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    case = BY_NAME[name]
    (path,) = to_gguf(meta_checkpoint(case), tmp_path / "out", case.version)
    kind = Type.F16 if case.version == "1" else Type.BF16
    assert path.name == f"{name}-{kind.name.lower()}.gguf"
    assert without_frequencies(read_theirs(path)[1]) == expected(case.model(), kind)


@pytest.mark.parametrize("label", WRITABLE)
@pytest.mark.parametrize("name", ["3.1"])
def test_every_type_is_ggmls(name: str, label: str, meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Bit for bit what the gguf package makes of the source's values; the file's type and name say so."""
    kind, key = WRITABLE[label], "quantize" if label.startswith("q") else "dtype"
    (path,) = to_gguf(meta_checkpoint(BY_NAME[name]), tmp_path / "out", **{key: DTYPES[label]})
    keys, tensors = read_theirs(path)
    assert without_frequencies(tensors) == expected(BY_NAME[name].model(), kind)
    known = {Type.F32: 0, Type.F16: 1, Type.Q4_0: 2, Type.Q8_0: 7, Type.BF16: 32}
    assert keys["general.file_type"] == (("UINT32",), known[kind])
    assert path.name == f"{name}-{kind.name.lower()}.gguf"


def test_quantised_values_are_near_the_source(meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Negative control of the comparison above: bytes of blocks mean something, and not the wrong rows."""
    model = BY_NAME["3.1"].model()
    (path,) = to_gguf(meta_checkpoint(BY_NAME["3.1"]), tmp_path / "out", quantize=DType.Q8_0)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, weight in gguf_weights(model).items():
        values = gguf.quants.dequantize(found[name].data, found[name].tensor_type)
        assert np.abs(values - weight.float().numpy()).max() <= weight.float().abs().max().item() / 120


@pytest.mark.parametrize(
    ("name", "options"),
    [("2-2shards", {}), ("3.1-4shards", {"quantize": DType.Q4_0}), ("3.2", {"shard_size": 1_000_000})],
    ids=["2", "3.1", "3.2"],
)
def test_huggingfaces_files_give_the_same(
    name: str, options: dict[str, Any], meta_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """By way of the half-split order and back: the keys and tensors that Meta's own folder gives, file by file."""
    case = BY_NAME[name]
    middle = tmp_path / name  # the model is called after its folder
    convert_checkpoint(plan_conversion(meta_checkpoint(case), llama_version=case.version), middle)
    direct = to_gguf(meta_checkpoint(case), tmp_path / "direct", case.version, **options)
    around = to_gguf(middle, tmp_path / "around", **options)
    assert [path.name for path in direct] == [path.name for path in around]
    assert all(read_theirs(one) == read_theirs(other) for one, other in zip(direct, around, strict=True))
    assert (len(direct) > 1) is ("shard_size" in options)


CONTEXTS = {"1": 2048, "2": 4096, "code": 16384, "3": 8192, "3.1": 131072, "3.2": 131072}
ENDS = {("sentencepiece", False): 2, ("sentencepiece", True): 2, ("tiktoken", False): 513, ("tiktoken", True): 521}


@pytest.mark.parametrize(
    ("name", "instruct"),
    [("1", False), ("code", False), ("3", False), ("3.2", False), ("2", True), ("3", True), ("3.1", True)],
)
def test_keys_are_those_of_llama_cpp(name: str, instruct: bool, meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """All of them with their types; arrays are held against the package's own writing elsewhere."""
    case, model = BY_NAME[name], BY_NAME[name].model()
    (path,) = to_gguf(meta_checkpoint(case), tmp_path / "out", case.version, instruct=instruct)
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
    (path,) = to_gguf(source, tmp_path / "out", instruct=True)
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


@pytest.mark.parametrize(
    ("head_dim", "factor", "ones", "between", "full"),
    [(64, 32.0, 15, [1.651, 3.292, 9.667], 14), (128, 8.0, 29, 6, 29)],
)
def test_divisors_of_the_released_models(
    head_dim: int, factor: float, ones: int, between: int | list[float], full: int
) -> None:
    """As llama.cpp computes them; the numbers are those of Llama 3.2 1B and of 3.1."""
    found = rope_divisors(scaled_config(head_dim, factor))
    np.testing.assert_allclose(found, gguf_models.rope_divisors(head_dim, 500000.0, factor), rtol=3e-6)
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
    (path,) = to_gguf(meta_checkpoint(case), tmp_path / "out", case.version)
    (tensor,) = (found for found in gguf.GGUFReader(path).tensors if found.name == "rope_freqs.weight")
    assert tensor.tensor_type is Type.F32
    wanted = gguf_models.rope_divisors(16, 500000.0, case.model().rope_factor)
    np.testing.assert_allclose(tensor.data, wanted, rtol=3e-6)


Q8, HALF, FULL = DType.Q8_0, DType.FLOAT16, DType.FLOAT32


@pytest.mark.parametrize(
    ("name", "options", "kinds"),
    [
        ("3.1", {"output_type": Q8}, {"output": Type.Q8_0}),
        ("3.1", {"embedding_type": HALF, "output_type": FULL}, {"token_embd": Type.F16, "output": Type.F32}),
        ("3.2", {"embedding_type": Q8, "output_type": FULL}, {"token_embd": Type.Q8_0}),
    ],
    ids=["head", "both", "tied"],
)
def test_head_and_embedding_may_be_of_another_type(
    name: str, options: dict[str, DType], kinds: dict[str, Type], meta_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """The file's type is that of most elements; where the head is tied, it is of the embedding's."""
    case = BY_NAME[name]
    (path,) = to_gguf(meta_checkpoint(case), tmp_path / "out", case.version, quantize=DType.Q4_0, **options)
    keys, tensors = read_theirs(path)
    assert without_frequencies(tensors) == expected(case.model(), Type.Q4_0, **kinds)
    assert keys["general.file_type"][1] == 2


def test_quantised_bytes_are_kept(tmp_path: Path, meta_checkpoint: Checkpoint) -> None:
    """Also where only another tool can write the type; what is asked for is made of the values."""
    model = random_model("3.1", dim=256, heads=4, params={"multiple_of": 256})
    source = tmp_path / "theirs.gguf"
    vocabulary = gguf_models.tiktoken_vocabulary(
        meta_checkpoint(BY_NAME["3.1"]) / "tokenizer.model",
        ["<|begin_of_text|>", "<|end_of_text|>"],
        "<|end_of_text|>",
        None,
    )
    mixed = {"token_embd.weight": Type.Q6_K, "output.weight": Type.Q8_0}
    values = gguf_models.write_theirs(source, model, lambda name: mixed.get(name, Type.Q4_K), vocabulary=vocabulary)
    before = read_theirs(source)[1]
    (path,) = to_gguf(source, tmp_path / "kept")
    keys, kept = read_theirs(path)
    assert kept == before
    assert path.name == "theirs-q4_k.gguf"
    assert keys["general.file_type"][1] == 1024
    assert read_theirs(*to_gguf(source, tmp_path / "again", output_type=DType.Q8_0))[1] == before
    changed = read_theirs(*to_gguf(source, tmp_path / "changed", quantize=DType.Q4_0))[1]
    for name, (kind, data) in changed.items():
        if values[name].ndim > 1:
            assert (kind, data) == (Type.Q4_0, gguf.quants.quantize(values[name], Type.Q4_0).tobytes())


def test_parts_are_one_model_to_the_package(meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    case = BY_NAME["3.1"]
    (whole,) = to_gguf(meta_checkpoint(case), tmp_path / "whole")
    parts = to_gguf(meta_checkpoint(case), tmp_path / "parts", shard_size=1_000_000)
    count = len(parts)
    assert [path.name for path in parts] == [f"3.1-bf16-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)]
    assert count > 2
    keys, tensors = read_theirs(whole)
    seen: gguf_models.Stored = {}
    for number, path in enumerate(parts):
        found, own = read_theirs(path)
        split = {key: found.pop(key) for key in ("split.no", "split.count", "split.tensors.count")}
        assert [*split.values()] == [(("UINT16",), number), (("UINT16",), count), (("INT32",), len(tensors))]
        assert found == ({} if number else keys)
        assert not own.keys() & seen.keys()
        seen |= own
    assert seen == tensors


def test_two_models_of_one_name_differ_by_their_type(meta_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The certificate names the files it is about."""
    (path,) = to_gguf(meta_checkpoint(BY_NAME["3.1"]), tmp_path / "out", quantize=DType.Q4_0)
    found = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert list(found["target"]["files"]) == [path.name]
    assert found["tensors"]["blk.1.attn_q.weight"]["dtype"] == "q4_0"


def test_rows_behind_the_last_token(tmp_path: Path) -> None:
    """A padded vocabulary: llama.cpp wants a token for every row."""
    model = random_model("3.1")
    write_meta(model, tmp_path / "meta", tokenizer="tiktoken")
    folder = tmp_path / "hf"
    convert_checkpoint(plan_conversion(tmp_path / "meta"), folder)
    pad_huggingface(folder, rows=800)
    tokens = read_theirs(*to_gguf(folder, tmp_path / "out"))[0]["tokenizer.ggml.tokens"][1]
    assert (len(tokens), tokens[767:770]) == (800, ["<|reserved_special_token_247|>", "[PAD768]", "[PAD769]"])


def pad_huggingface(folder: Path, rows: int) -> None:
    """More rows in embedding and head than there are tokens."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], weights[name][: rows - len(weights[name])]])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
