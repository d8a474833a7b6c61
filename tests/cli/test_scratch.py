"""The book's format on the command line: both ways, with what no file tells, and damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.book_reference import ASSUMED, book_state, saved
from tests.checkpoints import random_model
from tests.cli.commands import Result, flip_byte
from tests.cli.conftest import BY_NAME, check_refusal

Source = Callable[..., Path]
Run = Callable[..., Result]
ASSUME = [part for name, value in ASSUMED["3.1"].items() for part in ("--assume", f"{name}={value}")]


@pytest.fixture
def book(source: Source, run: Run, output: Path) -> Path:
    """Case 3.1-4shards in the book's format; the test may change it."""
    assert run("convert", source("3.1-4shards"), output, "--to", "scratch", "-q").status == 0
    return output


@pytest.fixture
def lone(tmp_path: Path) -> Path:
    """A .pth as torch.save leaves it, with a tokenizer and nothing else."""
    model = random_model("3.1")
    return saved(model, tmp_path / "lone", book_state(model))


def test_there_and_back_is_the_same_model(meta_checkpoint, run: Run, tmp_path: Path) -> None:
    source, book, back = meta_checkpoint(BY_NAME["3.1-4shards"]), tmp_path / "book", tmp_path / "hf"
    assert run("convert", source, book, "--to", "scratch", "--verify").status == 0
    names = {"scratch.pth", "scratch_config.json", "scratch_config.py", "tokenizer.model", "conversion.json"}
    assert {path.name for path in book.iterdir()} == names
    assert run("convert", book / "scratch.pth", back, "--verify").status == 0
    assert run("verify", source, back).out.endswith("the same model\n")


def test_another_model_is_told(book: Path, run: Run, tmp_path: Path) -> None:
    """Negative control of the proof: one bit of a weight; and a constant of the configuration."""
    other = shutil.copytree(book, tmp_path / "other")
    flip_byte(other / "scratch.pth", "data/3")
    assert run("verify", book, other).status == 1
    shutil.copyfile(book / "scratch.pth", other / "scratch.pth")
    path = other / "scratch_config.json"
    path.write_text(path.read_text().replace('"factor": 8.0', '"factor": 32.0'))
    result = run("verify", book, other)
    assert result.status == 1
    assert "rope_scaling" in result.out


def test_a_damaged_file_is_not_converted(book: Path, run: Run, tmp_path: Path) -> None:
    flip_byte(book / "scratch.pth", "data/3")
    result = run("convert", book, tmp_path / "out")
    check_refusal(result, 3)
    assert "scratch.pth: record scratch/data/3" in "\n".join(result.complaint)


def test_what_a_lone_file_does_not_tell(lone: Path, run: Run, tmp_path: Path) -> None:
    """Asked for by the names to give it under; given, it is enough for a proof."""
    for command in (("inspect", lone), ("convert", lone.parent, tmp_path / "out")):
        result = run(*command)
        check_refusal(result, 3)
        assert "tell heads, rope_theta, rope_factor, context" in result.complaint[0]
        assert "--assume heads=NUMBER" in result.complaint[-1]
    assert run("convert", lone, tmp_path / "out", *ASSUME, "--verify").status == 0
    assert "12 heads of 16, 4 kv heads" in run("inspect", lone, *ASSUME).out
    assert "12 heads of 16, 4 kv heads" in run("inspect", tmp_path / "out").out


def test_a_wrong_assumption_is_one_of_usage(lone: Path, run: Run) -> None:
    for text in ("heads=many", "n_heads=12", "heads"):
        check_refusal(run("inspect", lone, "--assume", text), 2)


def test_notes_reach_the_user(lone: Path, run: Run, tmp_path: Path) -> None:
    torch.save({"model": torch.load(lone), "epoch": 3}, lone)
    result = run("convert", lone, tmp_path / "out", *ASSUME)
    assert result.status == 0
    assert "left out of model.pth: epoch" in result.out + result.err


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: os.truncate(path, 1000), "truncated"),
        (lambda path: os.truncate(path, 0), "empty file"),
        (lambda path: path.write_bytes(b"<!doctype html>"), "an HTML page"),
        (lambda path: path.write_bytes(b"\x00" * 4096), "not a .pth file"),
        (lambda path: torch.save([torch.ones(2)], path), "holds a list"),
        (lambda path: torch.save({"a": Path("x")}, path), "refused: its pickle asks for"),
        (lambda path: torch.save({"a": torch.ones(2)}, path), "no checkpoint here"),
    ],
)
def test_what_is_no_file_of_the_book(damage: Callable[[Path], object], words: str, lone: Path, run: Run) -> None:
    damage(lone)
    for place in (lone, lone.parent):
        result = run("inspect", place, *ASSUME)
        check_refusal(result, 3)
        assert words in result.complaint[0]


def test_a_shard_size_is_none_of_its_options(source: Source, run: Run, output: Path) -> None:
    result = run("convert", source("3.1-4shards"), output, "--to", "scratch", "--shard-size", "1MB")
    check_refusal(result, 2)
    assert "--shard-size: LLMs-from-scratch .pth (scratch) has no such thing" in result.complaint[0]


def test_llama_1_is_refused(source: Source, run: Run, output: Path) -> None:
    result = run("convert", source("1-4shards"), output, "--to", "scratch")
    check_refusal(result, 2)
    assert "norm_eps is 1e-06: the classes have 1e-05 written in them" in result.err
