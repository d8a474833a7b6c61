"""Damaged, missing, foreign and malicious weight files of Meta's: refused, and named."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.checkpoints import random_model, write_checklist, write_meta
from tests.cli.commands import Result, State, change_json, change_shards, flip_byte, leftovers, swap

Refuses = Callable[..., str]
Source = Callable[..., Path]
Run = Callable[..., Result]


@pytest.mark.parametrize("checklist", [True, False], ids=["checklist", "no checklist"])
@pytest.mark.parametrize("name", ["consolidated.01.pth", "consolidated.03.pth"])
def test_a_missing_shard_is_named(source: Source, refuses: Refuses, name: str, checklist: bool) -> None:
    """The last one too: without a checklist only the shapes can tell."""
    folder = source(checklist=checklist)
    (folder / name).unlink()
    text = refuses(folder)
    assert name in text
    assert str(folder) in text
    assert "consolidated.00.pth" not in text
    assert text.endswith("Download the missing files into the same folder.")


def test_a_surplus_shard_is_named(source: Source, refuses: Refuses) -> None:
    folder = source()
    stream = io.BytesIO()  # its own stem would betray a copy at once
    torch.save(torch.load(folder / "consolidated.03.pth"), stream)
    (folder / "consolidated.04.pth").write_bytes(stream.getvalue())
    text = refuses(folder)
    assert "5 shards found, but the model has 4" in text
    assert "surplus  consolidated.04.pth" in text


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_a_shard_cut_short_is_named(source: Source, refuses: Refuses, legacy: bool, part: float) -> None:
    folder = source("3-2shards", legacy=legacy)
    path = folder / "consolidated.01.pth"
    os.truncate(path, int(path.stat().st_size * part))
    text = refuses(folder)
    assert f"{path}: " in text
    assert "truncated" in text or part == 0.02
    assert text.endswith(("fetch the file again.", "Fetch the file again.")) or part == 0.02


def test_swapped_shards_are_told_by_the_name_in_the_file(source: Source, refuses: Refuses) -> None:
    folder = source()
    swap(folder / "consolidated.00.pth", folder / "consolidated.01.pth")
    text = refuses(folder)
    assert "consolidated.00.pth was saved as consolidated.01.pth" in text
    assert "consolidated.01.pth was saved as consolidated.00.pth" in text


def test_swapped_shards_without_a_name_are_told_by_the_checklist(source: Source, refuses: Refuses) -> None:
    folder = source()
    for path in folder.glob("*.pth"):
        stream = io.BytesIO()
        torch.save(torch.load(path), stream)
        path.write_bytes(stream.getvalue())
    write_checklist(folder)
    swap(folder / "consolidated.00.pth", folder / "consolidated.01.pth")
    text = refuses(folder)
    assert "consolidated.00.pth is consolidated.01.pth under another name" in text
    assert "consolidated.01.pth is consolidated.00.pth under another name" in text


def test_a_shard_of_another_size_of_model(source: Source, refuses: Refuses, tmp_path: Path) -> None:
    folder = source()
    other = random_model("3.1", dim=256, heads=16, kv_heads=4)
    foreign = write_meta(other, tmp_path / "other", shards=4, checklist=False)
    shutil.copy(foreign / "consolidated.01.pth", folder)
    text = refuses(folder)
    assert "different models" in text
    assert "consolidated.00.pth: wq (48, 192)" in text
    assert "consolidated.01.pth: wq (64, 256)" in text


def test_a_shard_of_another_model_of_the_same_size(source: Source, refuses: Refuses, tmp_path: Path) -> None:
    """All shapes fit; the norms, which every shard holds whole, do not."""
    folder = source()
    foreign = write_meta(random_model("3.1", seed=5), tmp_path / "other", shards=4, checklist=False)
    shutil.copy(foreign / "consolidated.01.pth", folder)
    text = refuses(folder)
    assert "norms differ between shards" in text
    assert "layers.1.ffn_norm.weight: consolidated.00.pth and consolidated.01.pth" in text
    assert "consolidated.02.pth" not in text


def test_a_flipped_byte_is_told_with_file_record_and_tensor(source: Source, refuses: Refuses) -> None:
    folder = source("3-2shards")
    flip_byte(folder / "consolidated.01.pth", "data/5")
    tensor = list(torch.load(folder / "consolidated.01.pth"))[5]
    text = refuses(folder)
    assert "consolidated.01.pth: record consolidated.01/data/5 at offset " in text
    assert f"({tensor})" in text
    assert "consolidated.00" not in text


def test_a_flipped_byte_passes_where_nothing_is_checked(source: Source, run: Run, output: Path) -> None:
    folder = source("3-2shards")
    flip_byte(folder / "consolidated.01.pth", "data/5")
    assert run("convert", folder, output, "--no-check").status == 0
    assert leftovers(output) == ["output"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html><body>403</body></html>", "an HTML page"),
        (b"\n<HTML>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"", "empty file"),
        (b"just text", "not a .pth file: it starts with b'just text'"),
        (b"PK\x05\x06" + bytes(18), "not a .pth file"),
    ],
    ids=["html", "HTML", "lfs", "empty", "text", "empty zip"],
)
def test_what_is_no_weight_file_is_said_to_be_what_it_is(
    source: Source, refuses: Refuses, content: bytes, words: str
) -> None:
    folder = source("3-2shards")
    path = folder / "consolidated.01.pth"
    path.write_bytes(content)
    text = refuses(folder)
    assert f"{path}: " in text
    assert words in text


def test_all_unreadable_files_are_told_at_once(source: Source, refuses: Refuses) -> None:
    folder = source()
    for name in ("consolidated.00.pth", "consolidated.02.pth"):
        (folder / name).write_bytes(b"")
    text = refuses(folder)
    assert "2 of 4 files cannot be read" in text
    assert "consolidated.00.pth: empty file" in text
    assert "consolidated.02.pth: empty file" in text


def test_unknown_and_missing_tensors_are_all_listed(source: Source, refuses: Refuses) -> None:
    folder = source("3-2shards")

    def change(path: Path, state: State) -> None:
        del state["norm.weight"]
        state["lora.weight"] = torch.zeros(2)
        if path.name == "consolidated.01.pth":
            del state["layers.1.attention.wo.weight"]
            state["extra.bias"] = torch.zeros(2)

    change_shards(folder, change)
    text = refuses(folder)
    assert "(4 problems)" in text
    for line in (
        "missing  layers.1.attention.wo.weight in consolidated.01.pth",
        "missing  norm.weight in every shard",
        "unknown  extra.bias in consolidated.01.pth",
        "unknown  lora.weight in every shard",
    ):
        assert f"  {line}\n" in text


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.int8], ids=["fp8", "int8"])
def test_quantised_weights_are_refused_by_name(source: Source, refuses: Refuses, dtype: torch.dtype) -> None:
    folder = source("3-2shards")
    name = "layers.1.feed_forward.w1.weight"
    change_shards(folder, lambda _, state: state | {name: state[name].to(dtype)})
    text = refuses(folder)
    assert "quantised weights are not supported (2 tensors)" in text
    assert f"consolidated.01.pth: {name} is {str(dtype).removeprefix('torch.')}" in text


@pytest.mark.parametrize("name", ["vision_model.conv.weight", "layers.0.feed_forward.experts.moe_w_in_eD_F"])
def test_vision_and_llama_4_are_known_by_their_tensors(source: Source, refuses: Refuses, name: str) -> None:
    folder = source("3-2shards")
    change_shards(folder, lambda _, state: state | {name: torch.zeros(2)})
    assert "this is a Llama 3.2 Vision or Llama 4 model, which is not supported" in refuses(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("layers.0.attention.wq.weight", torch.ones(()), "float32 (), wanted"),
        ("tok_embeddings.weight", torch.ones(5), "float32 (5,), wanted"),
        ("norm.weight", torch.ones(192, 1), "float32 (192, 1), wanted"),
        ("layers.0.attention.wv.weight", torch.ones(32, 192).double(), "float64 (32, 192), wanted"),
        ("layers.0.attention.wk.weight", torch.ones(3, 192), "the files have (6, 192), params.json says (64, 192)"),
        ("layers.0.attention.wo.weight", torch.ones(192, 95), "the files have (192, 190), params.json says (192, 192)"),
    ],
)
def test_tensors_of_wrong_shape_or_type(
    source: Source, refuses: Refuses, name: str, tensor: torch.Tensor, words: str
) -> None:
    folder = source("3-2shards")
    change_shards(folder, lambda _, state: state | {name: tensor})
    text = refuses(folder)
    assert name in text
    assert words in text


class Command:
    """Unpickled by torch.load without weights_only, it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["value", "key"])
def test_a_malicious_pickle_is_named_and_not_executed(
    source: Source, refuses: Refuses, run: Run, tmp_path: Path, legacy: bool, place: str
) -> None:
    folder, mark = source("3-2shards"), tmp_path / "executed"
    command = Command(f"touch {mark}")
    extra = {"x": command} if place == "value" else {command: torch.zeros(1)}
    change_shards(folder, lambda _, state: state | extra, legacy=legacy)
    text = refuses(folder)
    assert "posix.system" in text
    assert "Nothing of it was executed" in text
    assert run("inspect", folder).status == 3
    assert not mark.exists()
    torch.load(folder / "consolidated.00.pth", weights_only=False)
    assert mark.exists(), "the pickle would have done nothing anyway"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"garbage\nmore garbage\n", "2 lines without a digest and a name"),
        (b"\xff\xfe\x00garbage", "1 line without a digest and a name"),
        (b"0" * 32 + b"  consolidated.07.pth\n", "consolidated.07.pth"),
        (b"0" * 32 + b"  params.json\n", f"params.json has [0-9a-f]{{32}}; checklist.chk lists {'0' * 32}"),
    ],
    ids=["garbage", "binary", "unknown file", "wrong digest"],
)
def test_a_checklist_that_does_not_fit(source: Source, refuses: Refuses, content: bytes, words: str) -> None:
    folder = source("3-2shards")
    (folder / "checklist.chk").write_bytes(content)
    assert re.search(words, refuses(folder))


def test_values_that_are_no_numbers_are_a_warning_where_a_cast_meets_them(
    source: Source, run: Run, output: Path
) -> None:
    """NaN and infinity convert: the model may be broken, the conversion is not. Overflow is told apart."""
    folder = source("3-2shards")

    def change(path: Path, state: State) -> None:
        if path.name == "consolidated.00.pth":
            state["layers.0.attention.wq.weight"][0, :2] = torch.tensor([torch.nan, torch.inf])
            state["layers.1.feed_forward.w2.weight"][3, 4] = 1e6

    change_shards(folder, change)
    result = run("convert", folder, output, "--dtype", "float16", "--json")
    assert result.status == 0
    assert "q_proj.weight: 2 elements are NaN or infinite in the source, 0 more became infinite" in result.err
    assert "down_proj.weight: 0 elements are NaN or infinite in the source, 1 more became infinite" in result.err
    assert result.json["unusual"] == [
        {"tensor": "model.layers.0.self_attn.q_proj.weight", "not_finite": 2, "overflowed": 0},
        {"tensor": "model.layers.1.mlp.down_proj.weight", "not_finite": 0, "overflowed": 1},
    ]
    assert "layers.0.attention.wq.weight: 2 values NaN or infinite" in run("verify", folder).out


def test_more_layers_in_the_weights_than_in_params(source: Source, refuses: Refuses) -> None:
    folder = source("3-2shards")
    change_json(folder / "params.json", n_layers=1)
    text = refuses(folder)
    assert "unknown  layers.1.attention.wq.weight in every shard" in text
    assert text.endswith("Is params.json, which says 1 layers, the one of these shards?")
