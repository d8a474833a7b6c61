"""GGUF through the real command: options, parts, proofs, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tests.checkpoints import MetaModel, random_model, write_meta
from tests.cli.commands import Result, leftovers
from tests.cli.conftest import check_refusal
from tests.convert.gguf_models import gguf_weights, read_theirs, rope_divisors, vocabulary_of, write_out, write_theirs

Run = Callable[..., Result]
Source = Callable[..., Path]
Refuses = Callable[..., str]
TYPES = ("--dtype=float32", "--dtype=float16", "--quantize=q8_0", "--quantize=q4_0")
QUERY = "blk.0.attn_q.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scaled model in Meta's format, read only."""
    path = tmp_path_factory.mktemp("gguf") / "small"
    return write_meta(model(), path, tokenizer="tiktoken")


def model() -> MetaModel:
    return random_model("3.1", seed=5)


@pytest.fixture
def theirs(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """(weights to change, options of write_theirs) -> the model in a file that the gguf package wrote."""

    def made(change: Callable[[dict[str, Any]], None] = lambda weights: None, **options: Any) -> Path:
        found = model()
        change(found.weights)
        options = {"divisors": rope_divisors(16, 500000.0, 8.0), "keys": {"llama.context_length": 131072}} | options
        path = tmp_path / "theirs.gguf"
        write_theirs(path, found, lambda name: Type.BF16, vocabulary=vocabulary_of(folder), **options)
        return path

    return made


# --- proofs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-q", *TYPES])
def test_the_output_is_proven(folder: Path, run: Run, output: Path, option: str) -> None:
    """With --verify, by `verify` of folder and file, and of the file alone."""
    result = run("convert", folder, output, "--to", "gguf", option, "--verify")
    assert result.status == 0, result.out
    assert result.out.rstrip().endswith("the same model")
    (path,) = output.glob("*.gguf")
    if option != "-q":
        assert run("verify", path).status == 0
        return
    assert "21 of 21 tensors bit for bit equal" in run("verify", folder, path).out


def failed(result: Result) -> set[str]:
    assert result.status == 1
    return {level["name"] for level in result.json["levels"] if level["verdict"] == "failed"}


def flip(path: Path, name: str, place: int = 1000) -> None:
    """Another bit in the middle of a tensor."""
    (tensor,) = (found for found in gguf.GGUFReader(path).tensors if found.name == name)
    data = bytearray(path.read_bytes())
    data[tensor.data_offset + place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [18 * 50, 18 * 50 + 7], ids=["scale", "code"])
def test_one_flipped_bit_of_a_block_is_seen(folder: Path, run: Run, output: Path, place: int) -> None:
    assert run("convert", folder, output, "--to", "gguf", "--quantize", "q4_0").status == 0
    (path,) = output.glob("*.gguf")
    flip(path, QUERY, place)
    result = run("verify", folder, path, "--json")
    assert "tensors" in failed(result)
    (tensors,) = (level for level in result.json["levels"] if level["name"] == "tensors")
    assert [finding for finding in tensors["findings"] if finding.startswith("query projection of layer 0: ")]


def test_what_others_wrote_is_the_same_model(folder: Path, run: Run, theirs: Callable[..., Path]) -> None:
    """The mistakes below are the only difference."""
    assert run("verify", folder, theirs(), "--level", "structure,tensors,logits").status == 0


def test_lost_divisors_are_seen(folder: Path, run: Run, theirs: Callable[..., Path]) -> None:
    """As in every GGUF file of Llama 3.1 before July 2024."""
    found = failed(run("verify", folder, theirs(divisors=None), "--json", "--level", "structure,tensors,logits"))
    assert found == {"structure", "logits"}


def halves(weights: dict[str, Any]) -> None:
    for name in [name for name in weights if name.split(".")[-2] in ("wq", "wk")]:
        weight = weights[name]
        weights[name] = weight.view(-1, 8, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def test_the_other_order_of_rows_is_seen(folder: Path, run: Run, theirs: Callable[..., Path]) -> None:
    found = failed(run("verify", folder, theirs(halves), "--json", "--level", "structure,tensors,logits"))
    assert found == {"tensors", "logits"}


# --- options and parts ---------------------------------------------------------------------------


def test_types_of_single_tensors(folder: Path, run: Run, output: Path) -> None:
    options = ("--quantize", "q4_0", "--output-type", "q8_0", "--embedding-type", "fp16")
    assert run("convert", folder, output, "--to", "gguf", *options).status == 0
    (path,) = output.glob("small-q4_0.gguf")
    kinds = {name: kind for name, (kind, _) in read_theirs(path)[1].items()}
    assert (kinds["output.weight"], kinds["token_embd.weight"]) == (Type.Q8_0, Type.F16)
    norms = {name for name in kinds if name.endswith("norm.weight") or name == "rope_freqs.weight"}
    assert {kinds[name] for name in norms} == {Type.F32}
    assert {kinds[name] for name in kinds.keys() - norms - {"output.weight", "token_embd.weight"}} == {Type.Q4_0}


@pytest.fixture(scope="module")
def parts(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in four files, read only."""
    from llama_convert.convert import Request, convert_checkpoint, plan_conversion

    plan = plan_conversion(folder, to="gguf", request=Request(shard_size=1_000_000))
    return convert_checkpoint(plan, tmp_path_factory.mktemp("parts") / "small").folder


def test_parts_are_one_model_from_any_of_them(folder: Path, parts: Path, run: Run) -> None:
    paths = sorted(parts.glob("*.gguf"))
    assert [path.name for path in paths] == [f"small-bf16-0000{i}-of-00004.gguf" for i in range(1, 5)]
    for path in (parts, *paths):
        assert run("verify", folder, path, "--level", "structure,tensors").status == 0


@pytest.mark.parametrize("missing", [1, 2, 4])
def test_a_missing_part_is_named(parts: Path, tmp_path: Path, missing: int, refuses: Refuses) -> None:
    """However the model is pointed at."""
    copy = shutil.copytree(parts, tmp_path / "copy")
    name = f"small-bf16-0000{missing}-of-00004.gguf"
    (copy / name).unlink()
    for source in (copy, *copy.glob("*.gguf")):
        text = refuses(source)
        assert "1 part of 4 missing" in text
        assert f"  {name}" in text.splitlines()


def test_a_folder_of_two_models_is_refused(parts: Path, theirs: Callable[..., Path], refuses: Refuses) -> None:
    folder = theirs().parent
    for path in parts.glob("*.gguf"):
        shutil.copy(path, folder)
    text = refuses(folder)
    assert f"{folder}: holds several GGUF models" in text
    assert text.splitlines()[1:3] == ["  small-bf16-00001-of-00004.gguf", "  theirs.gguf"]


def test_rows_that_no_block_fits(run: Run, output: Path, tmp_path: Path, refuses: Refuses) -> None:
    """48 columns cannot be cut in blocks of 32; floats need no blocks."""
    odd = random_model("3", dim=48, heads=6, params={"multiple_of": 16, "ffn_dim_multiplier": 1.0})
    folder = write_meta(odd, tmp_path / "odd", tokenizer="tiktoken")
    text = refuses(folder, "--to", "gguf", "--quantize", "q8_0", status=2)
    named = [line.split(":")[0].strip() for line in text.splitlines() if "rows of 48 elements" in line]
    wanted = {name for name, weight in gguf_weights(odd).items() if weight.dim() == 2 and weight.shape[1] == 48}
    assert set(named) == wanted
    assert run("convert", folder, output, "--to", "gguf").status == 0


@pytest.mark.parametrize(
    ("target", "option", "value"),
    [
        ("hf", "--quantize", "q8_0"),
        ("hf", "--output-type", "q8_0"),
        ("mlx", "--embedding-type", "float16"),
        ("hf", "--shards", "2"),
        ("gguf", "--shards", "2"),
    ],
)
def test_options_of_other_formats(folder: Path, refuses: Refuses, target: str, option: str, value: str) -> None:
    assert f"{option}: " in refuses(folder, "--to", target, option, value, status=2)


@pytest.mark.parametrize("option", ["--quantize", "--output-type", "--embedding-type"])
@pytest.mark.parametrize("value", ["q4_k", "int8", "q9"])
def test_types_that_cannot_be_written(folder: Path, refuses: Refuses, option: str, value: str) -> None:
    text = refuses(folder, "--to", "gguf", option, value, status=2)
    assert f"{option} {value}: not a type that can be written" in text


# --- damaged and foreign files -------------------------------------------------------------------


def refused(run: Run, refuses: Refuses, path: Path) -> str:
    """By convert, inspect and verify in the same words."""
    text = refuses(path)
    for command in ("inspect", "verify"):
        result = run(command, path)
        check_refusal(result, 3)
        assert "\n".join(result.complaint) == text
    return text


@pytest.mark.parametrize("size", [3, 20, 100, 5_000, 30_000, -1, -40_000])
def test_truncated(run: Run, refuses: Refuses, theirs: Callable[..., Path], size: int) -> None:
    path = theirs()
    data = path.read_bytes()
    path.write_bytes(data[:size])
    assert str(path) in refused(run, refuses, path)


def test_flipped_bytes_of_the_header(run: Run, output: Path, theirs: Callable[..., Path]) -> None:
    """Another name, size, id or text may still make a model; all else is refused in the form of every refusal."""
    path = theirs()
    data = path.read_bytes()
    size = min(found.data_offset for found in gguf.GGUFReader(path).tensors)
    infos = data.index(b"rope_freqs.weight")
    places = [*range(0, 1200, 17), *range(infos, size, 19), *np.random.default_rng(0).integers(0, size, 30).tolist()]
    statuses = []
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x91]) + data[place + 1 :])
        result = run("convert", path, output, "--dry-run", "--quiet")
        statuses.append(result.status)
        if result.status:
            check_refusal(result, 3)
    assert statuses.count(3) > len(places) * 0.8
    assert leftovers(output) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"ggjt" + data[4:], "no checkpoint here"),
        (lambda data: data[:4] + b"\1\0\0\0" + data[8:], "GGUF version 1, wanted 2 or 3"),
        (lambda data: data[:4] + b"\0\0\0\3" + data[8:], "big-endian"),
        (lambda data: data[:15] + b"\x7f" + data[16:], "damaged or truncated GGUF header"),
        (lambda data: data + bytes(100), "the file at"),
    ],
    ids=["magic", "version", "byte order", "count", "bytes behind"],
)
def test_another_file(
    run: Run, refuses: Refuses, theirs: Callable[..., Path], change: Callable[[bytes], bytes], words: str
) -> None:
    path = theirs()
    path.write_bytes(change(path.read_bytes()))
    assert words in refused(run, refuses, path)


def test_another_architecture(run: Run, refuses: Refuses, theirs: Callable[..., Path]) -> None:
    text = refused(run, refuses, theirs(keys={"general.architecture": "qwen2"}))
    assert "general.architecture is 'qwen2', wanted 'llama'" in text


def file_of(path: Path, keys: dict[str, str], tensors: dict[str, np.ndarray], folder: Path | None = None) -> Path:
    """A GGUF file of another kind, as the package writes it."""
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture", "llama"))
    for key, value in keys.items():
        writer.add_string(key, value)
    if folder:
        vocabulary_of(folder)(writer)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    write_out(writer)
    return path


def test_what_is_no_model(run: Run, refuses: Refuses, folder: Path, tmp_path: Path) -> None:
    """A vision encoder, an adapter, a vocabulary alone: each called what it is."""
    matrix = np.zeros((32, 32), np.float32)
    encoder = {"general.architecture": "clip", "general.type": "mmproj"}
    text = refused(run, refuses, file_of(tmp_path / "a.gguf", encoder, {"v.blk.0.ln1.weight": matrix}))
    assert "a.gguf: this is no model: its general.type is 'mmproj'" in text
    lora = {f"{QUERY}.lora_a": matrix, f"{QUERY}.lora_b": matrix}
    text = refused(run, refuses, file_of(tmp_path / "b.gguf", {"general.type": "adapter"}, lora))
    assert "b.gguf: this is no model: its general.type is 'adapter'" in text
    text = refused(run, refuses, file_of(tmp_path / "c.gguf", {}, {}, folder))
    assert "c.gguf: has no token_embd.weight" in text
