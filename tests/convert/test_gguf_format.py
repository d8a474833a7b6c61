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

from llama_convert.convert.containers.slices import DType
from tests.checkpoints import CASES, Case, MetaModel, random_model
from tests.convert import gguf_models
from tests.convert.gguf_models import encoded, gguf_weights, read_theirs
from tests.convert.support import converted

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
    return sorted(converted(source, folder, "gguf", version, **request).glob("*.gguf"))


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
    converted(meta_checkpoint(case), middle, "hf", case.version)
    direct = to_gguf(meta_checkpoint(case), tmp_path / "direct", case.version, **options)
    around = to_gguf(middle, tmp_path / "around", **options)
    assert [path.name for path in direct] == [path.name for path in around]
    assert all(read_theirs(one) == read_theirs(other) for one, other in zip(direct, around, strict=True))
    assert (len(direct) > 1) is ("shard_size" in options)


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
