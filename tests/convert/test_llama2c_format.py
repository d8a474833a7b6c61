"""llama2.c's format as a whole: files held against readings and quantisation of their own, written from run.c,
runq.c and export.py; what the C programs would not run is refused."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llama_convert.convert import convert_checkpoint, open_checkpoint, plan_conversion
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.outputs import Request
from llama_convert.convert.tokenizers.llama2c import read_tokenizer_bin
from tests.checkpoints import CASES, MetaModel, hidden_dim, random_model, write_meta
from tests.convert.support import converted, equal, halves, raw

CASE = next(case for case in CASES if case.name == "2-grouped-8shards")
PER_LAYER = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


def meta_name(part: str, layer: int) -> str:
    block = "feed_forward." if part in ("w1", "w2", "w3") else "attention." if part in ("wq", "wk", "wv", "wo") else ""
    return f"layers.{layer}.{block}{part}.weight"


def quantised(weight: Tensor, group: int) -> bytes:
    """export.py, quantize_q80 and serialize: all codes, then all scales."""
    groups = weight.float().reshape(-1, group)
    scale = groups.abs().max(dim=1).values / 127.0
    codes = torch.round(groups / scale[:, None]).to(torch.int8)
    return raw(codes) + raw(scale)


def expected(model: MetaModel, version: int, *, context: int = 4096) -> bytes:
    """The whole file, from run.c's memory_map_weights and export.py's version1_export and version2_export."""
    weights, layers = model.weights, range(model.params["n_layers"])
    sizes = (model.params["dim"], hidden_dim(model.params), len(layers), model.heads, model.kv_heads)

    def floats(name: str) -> bytes:
        return raw(weights[name].float())

    def all_layers(part: str, stored=floats) -> bytes:
        return b"".join(stored(meta_name(part, layer)) for layer in layers)

    if version == 0:
        header = struct.pack("<7i", *sizes, model.vocab if model.tied else -model.vocab, context)
        attention = b"".join(all_layers(part) for part in ("attention_norm", "wq", "wk", "wv", "wo"))
        feed_forward = b"".join(all_layers(part) for part in ("ffn_norm", "w1", "w2", "w3"))
        tables = bytes(2 * 4 * context * model.head_dim // 2)  # run.c skips them: they are looked at elsewhere
        head = b"" if model.tied else floats("output.weight")
        return (
            header + floats("tok_embeddings.weight") + attention + feed_forward + floats("norm.weight") + tables + head
        )
    group = 64
    while sizes[0] % group or sizes[1] % group:
        group //= 2
    fields = struct.pack("<4si7iB", b"24ka", version, *sizes, model.vocab, context, model.tied)
    fields += struct.pack("<i", group) if version == 2 else b""

    def matrix(name: str) -> bytes:
        return quantised(weights[name], group) if version == 2 else floats(name)

    norms = all_layers("attention_norm") + all_layers("ffn_norm") + floats("norm.weight")
    matrices = b"".join(all_layers(part, matrix) for part in PER_LAYER)
    head = b"" if model.tied else matrix("output.weight")
    return fields.ljust(256, b"\0") + norms + matrix("tok_embeddings.weight") + matrices + head


def without_tables(data: bytes, model: MetaModel, context: int = 4096) -> bytes:
    """Version 0 with zeros for its cosines and sines."""
    size = 2 * 4 * context * model.head_dim // 2
    head = 0 if model.tied else model.weights["output.weight"].numel() * 4
    start = len(data) - head - size
    return data[:start] + bytes(size) + data[start + size :]


@pytest.fixture(scope="module")
def model() -> MetaModel:
    """Llama 2 with grouped heads and rows of 192 and 544: 64 does not divide them, 32 does."""
    return random_model("2", kv_heads=4, params={"multiple_of": 32, "ffn_dim_multiplier": 1.05})


@pytest.fixture(scope="module")
def source(model: MetaModel, tmp_path_factory) -> Path:
    return write_meta(model, tmp_path_factory.mktemp("llama2c") / "meta", tokenizer="sentencepiece")


@pytest.fixture(scope="module")
def files(source: Path, tmp_path_factory) -> dict[int, Path]:
    """Each version's folder."""
    root = tmp_path_factory.mktemp("versions")
    return {number: converted(source, root / str(number), "llama2c", format_version=number) for number in (0, 1, 2)}


@pytest.mark.parametrize("version", [0, 1, 2])
def test_every_byte_is_as_the_c_programs_read_it(version: int, files: dict[int, Path], model: MetaModel) -> None:
    found = (files[version] / "model.bin").read_bytes()
    assert (without_tables(found, model) if version == 0 else found) == expected(model, version)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_tied_head_is_not_stored(version: int, tmp_path: Path) -> None:
    model = random_model("2", tied=True)
    start = write_meta(model, tmp_path / "meta", tokenizer="sentencepiece")
    folder = converted(start, tmp_path / "out", "llama2c", format_version=version)
    found = (folder / "model.bin").read_bytes()
    assert (without_tables(found, model) if version == 0 else found) == expected(model, version)
    assert open_checkpoint(folder).config.tied


def test_rows_in_the_other_order_would_be_seen(files: dict[int, Path], model: MetaModel) -> None:
    """Negative control of the comparison above, floats and groups."""
    name = meta_name("wk", 1)
    moved = MetaModel(params=model.params, weights=model.weights | {name: halves(model.weights[name], 4)}, version="2")
    for version in (1, 2):
        assert (files[version] / "model.bin").read_bytes() != expected(moved, version)


def test_the_tables_are_the_angles_of_theta_10000(files: dict[int, Path], model: MetaModel) -> None:
    """model.py, precompute_freqs_cis."""
    data, context, half = (files[0] / "model.bin").read_bytes(), 4096, model.head_dim // 2
    end = len(data) - model.weights["output.weight"].numel() * 4
    tables = torch.frombuffer(bytearray(data[end - 8 * context * half : end]), dtype=torch.float32)
    cosines, sines = tables.view(2, context, half)
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, 2 * half, 2).float() / (2 * half)))
    angles = torch.outer(torch.arange(context).float(), frequencies)
    # The angles are the same float32 numbers: only their cosines may differ, by a unit in the last place.
    torch.testing.assert_close(cosines, angles.cos(), rtol=0, atol=2**-24)
    torch.testing.assert_close(sines, angles.sin(), rtol=0, atol=2**-24)


@pytest.mark.parametrize("version", [0, 1])
def test_back_are_the_bits_that_left(version: int, files: dict[int, Path], source: Path, tmp_path: Path) -> None:
    """bfloat16 to float32 and back; the folder or the file itself."""
    direct = converted(source, tmp_path / "direct", "hf", "2")
    for path in (files[version], files[version] / "model.bin"):
        back = converted(path, tmp_path / path.stem, "hf", dtype=DType.BFLOAT16)
        for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
            assert (back / name).read_bytes() == (direct / name).read_bytes(), name


def test_from_hugging_face_the_rows_go_back(
    files: dict[int, Path], model: MetaModel, source: Path, tmp_path: Path
) -> None:
    there = converted(source, tmp_path / "hf", "hf", "2")
    for version in (0, 2):
        again = converted(there, tmp_path / str(version), "llama2c", format_version=version)
        assert (again / "model.bin").read_bytes() == (files[version] / "model.bin").read_bytes()
        # tokenizer.json has no scores: of the merge that comes first the score becomes 0 from -0.
        before, after = (
            read_tokenizer_bin(folder / "tokenizer.bin", model.vocab) for folder in (files[version], again)
        )
        assert after == before


def test_groups_are_read_as_runq_computes_them(files: dict[int, Path], model: MetaModel, tmp_path: Path) -> None:
    """Code times scale in float32, norms as they are."""
    found = load_file(converted(files[2], tmp_path / "back", "hf") / "model.safetensors")
    for ours, metas, heads in (("self_attn.q_proj", "attention.wq", 12), ("mlp.down_proj", "feed_forward.w2", None)):
        weight = model.weights[f"layers.1.{metas}.weight"].float()
        data = quantised(weight, 32)
        codes = torch.frombuffer(bytearray(data[: weight.numel()]), dtype=torch.int8).view(-1, 32)
        scales = torch.frombuffer(bytearray(data[weight.numel() :]), dtype=torch.float32)
        values = (codes.float() * scales[:, None]).view(weight.shape)
        wanted = values if heads is None else halves(values, heads)
        assert equal({"": found[f"model.layers.1.{ours}.weight"]}, {"": wanted})
        assert not torch.equal(wanted, weight if heads is None else halves(weight, heads))
    assert torch.equal(found["model.norm.weight"], model.weights["norm.weight"].float())


def test_quantize_means_version_2(files: dict[int, Path], source: Path, tmp_path: Path) -> None:
    folder = converted(source, tmp_path / "out", "llama2c", quantize=DType.Q8_0)
    assert (folder / "model.bin").read_bytes() == (files[2] / "model.bin").read_bytes()
    work = plan_conversion(source, to="llama2c", request=Request(format_version=2)).work()
    assert {"cast to float32, quantised to int8 groups", "cast to float32, scales of int8 groups"} < set(work)


def test_without_a_word_it_is_version_0(files: dict[int, Path], source: Path, tmp_path: Path) -> None:
    folder = converted(source, tmp_path / "out", "llama2c")
    assert (folder / "model.bin").read_bytes() == (files[0] / "model.bin").read_bytes()


def test_values_that_are_no_numbers_are_told(model: MetaModel, tmp_path: Path) -> None:
    weights = {name: weight.clone() for name, weight in model.weights.items()}
    weights["layers.0.attention.wv.weight"][3, 5] = torch.nan
    spoilt = MetaModel(params=model.params, weights=weights, version="2")
    start = write_meta(spoilt, tmp_path / "in", tokenizer="sentencepiece")
    done = convert_checkpoint(plan_conversion(start, to="llama2c", request=Request(format_version=2)), tmp_path / "out")
    assert [(found.name, found.not_finite) for found in done.unusual] == [
        ("layers.0.attention.wv.weight", 1),
        ("layers.0.attention.wv.weight.scales", 1),
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("1", ["norm_eps is 1e-06, 1e-05 stands in its code"]),
        ("code", ["theta is 1e+06, 10000 stands in its code"]),
        ("3.1", ["theta is 500000", "RoPE is scaled", "the tokenizer is of tiktoken's kind"]),
    ],
)
def test_what_the_c_programs_would_get_wrong_is_refused(
    name: str, words: list[str], meta_checkpoint, tmp_path: Path
) -> None:
    """All reasons at once."""
    case = next(case for case in CASES if case.name == name)
    with pytest.raises(UsageError, match=r"llama2\.c would not run this model right") as error:
        plan_conversion(meta_checkpoint(case), to="llama2c", llama_version=case.version)
    assert len(error.value.problems) == len(words)
    assert all(word in problem for word, problem in zip(words, error.value.problems, strict=True))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(dtype=DType.BFLOAT16), "--dtype bfloat16: its floats are float32"),
        (Request(quantize=DType.Q4_0), "--quantize q4_0: llama2.c has int8 in groups"),
        (Request(quantize=DType.Q8_0, format_version=1), "only version 2 is quantised"),
        (Request(format_version=3), "are of version 0, 1 or 2"),
        (Request(shard_size=10**9), "--shard-size: llama2.c .bin"),
    ],
)
def test_what_the_format_does_not_have_is_refused(request_: Request, words: str, source: Path) -> None:
    with pytest.raises(UsageError) as error:
        plan_conversion(source, to="llama2c", request=request_)
    assert words in str(error.value)


def test_other_formats_have_no_versions(source: Path) -> None:
    with pytest.raises(UsageError, match="--format-version: Hugging Face safetensors"):
        plan_conversion(source, to="hf", request=Request(format_version=1))


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_truncated_file_is_refused_in_one_line(version: int, files: dict[int, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(files[version], tmp_path / "copy"))
    path = copy / "model.bin"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.bin") as error:
        open_checkpoint(copy)
    assert "\n" not in error.value.summary


def test_two_models_in_a_folder_are_told_apart_by_the_user(files: dict[int, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(files[0], tmp_path / "copy"))
    shutil.copyfile(files[1] / "model.bin", copy / "other.bin")
    with pytest.raises(CheckpointError, match="holds 2 models"):
        open_checkpoint(copy)
    assert open_checkpoint(copy / "other.bin").tokenizer == open_checkpoint(copy / "model.bin").tokenizer
