"""`pad` and `resize` with --in-place: which files are written anew, and what becomes of all others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_convert.convert import Checkpoint, open_checkpoint
from llama_convert.convert import in_place as module
from tests.cli.commands import Result, change_json, leftovers
from tests.cli.folders import contents, inodes, tensor, values

Run = Callable[..., Result]


def test_in_place_with_a_reserved_token_keeps_every_weight_file(hf: Callable[[str], Path], run: Run) -> None:
    folder = hf("3")
    (folder / "README.md").write_text("a model")
    before, old = inodes(folder), contents(folder)
    result = run("pad", folder, "--in-place")
    assert result.status == 0, result.err
    assert "0 weight files of" in result.out
    after, new = inodes(folder), contents(folder)
    assert after.keys() == before.keys()
    rewritten = {name for name in before if before[name] != after[name]}
    assert rewritten == {
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "conversion.json",
    }
    assert {name for name in old if old[name] != new[name]} == rewritten
    assert values(folder)["pad_token_id"] == values(folder, "generation_config.json")["pad_token_id"] == 767


def test_in_place_with_a_new_row_rewrites_the_files_that_hold_it(hf: Callable[[str], Path], run: Run) -> None:
    folder = hf("3")
    change_json(folder / "config.json", mine="kept")
    before, places = inodes(folder), values(folder, "model.safetensors.index.json")["weight_map"]
    tables = {name: tensor(folder, name) for name in places}
    result = run("pad", folder, "--in-place", "--token", "<pad>")
    assert result.status == 0, result.err
    after = inodes(folder)
    changed = {places[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    kept = {name for name in before if name.endswith(".safetensors")} - changed
    assert kept
    assert all(before[name] == after[name] for name in kept)
    assert all(before[name] != after[name] for name in changed)
    assert values(folder)["mine"] == "kept"
    index = values(folder, "model.safetensors.index.json")
    assert index["weight_map"] == places
    total = sum(tensor(folder, name).nbytes for name in places)
    assert index["metadata"]["total_size"] == total
    for name, table in tables.items():
        assert torch.equal(tensor(folder, name)[: len(table)], table)
    assert isinstance(open_checkpoint(folder), Checkpoint)


def test_in_place_is_what_a_copy_would_be(folders: Path, hf: Callable[[str], Path], run: Run, output: Path) -> None:
    folder = hf("2")
    assert run("pad", folder, "--in-place").status == 0
    assert run("pad", folders / "hf-2", output, "--shard-size", "500kB").status == 0
    places = values(output, "model.safetensors.index.json")["weight_map"]
    assert all(torch.equal(tensor(folder, name), tensor(output, name)) for name in places)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        assert values(folder, name) == values(output, name)


def test_a_change_in_place_that_fails_changes_nothing(
    hf: Callable[[str], Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hf("3")
    before, old = inodes(folder), contents(folder)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error", "disk")

    monkeypatch.setattr(module, "write_certificate", fail)
    assert run("pad", folder, "--in-place", "--token", "<pad>").status != 0
    assert (inodes(folder), contents(folder)) == (before, old)
    assert leftovers(folder) == [folder.name]


def test_links_of_a_cache_stay_links(hf: Callable[[str], Path], run: Run, tmp_path: Path) -> None:
    """The Hub's cache holds links to files elsewhere: those files must never be written to."""
    folder, store = hf("3"), tmp_path / "store"
    store.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(store / path.name)
        path.symlink_to(Path("..") / "store" / path.name)
    old = contents(store)
    assert run("pad", folder, "--in-place").status == 0
    assert contents(store) == old
    weights = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
    assert weights
    assert all(path.is_symlink() and os.readlink(path).startswith("..") for path in weights)
    assert not (folder / "config.json").is_symlink()
    assert values(folder)["pad_token_id"] == 767


def test_folders_of_mlx_change_in_place_too(folders: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mlx"
    assert run("convert", folders / "hf-3.2", folder, "--to", "mlx", "-q").status == 0
    assert run("pad", folder, "--in-place", "--token", "<pad>").status == 0
    after = open_checkpoint(folder)
    assert (after.format.name, after.config.vocab_size, after.config.tied) == ("mlx", 769, True)


def test_a_dry_run_writes_nothing(hf: Callable[[str], Path], run: Run, output: Path) -> None:
    folder = hf("3")
    before = inodes(folder)
    for options in (("--in-place",), (output,)):
        result = run("resize", folder, *options, "--vocab-size", 800, "--dry-run")
        assert result.status == 0, result.err
        assert "32 rows added (mean)" in result.out
        assert "from 768 to 800 rows" in result.out
    assert inodes(folder) == before
    assert leftovers(output) == []


# ---- certificates ----


@pytest.mark.parametrize("options", [(), ("--token", "<pad>")], ids=str)
def test_a_folder_changed_in_place_keeps_its_certificate(run: Run, hf: Callable[[str], Path], options: tuple) -> None:
    """Files that were not written anew are in it with what the older one said of them."""
    folder = hf("3")
    assert run("pad", folder, *options, "--in-place").status == 0
    found = run("verify", folder, "--certificate")
    assert (found.status, found.out.split()[:2]) == (0, ["certificate", "passed"]), found.out
    path = folder / values(folder, "model.safetensors.index.json")["weight_map"]["model.layers.0.mlp.up_proj.weight"]
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.unlink()  # a hard link: the other name keeps its bytes
    path.write_bytes(data)
    assert run("verify", folder, "--certificate").status == 1


def test_without_an_older_certificate_only_sizes_are_known(run: Run, hf: Callable[[str], Path]) -> None:
    folder = hf("3")
    (folder / "conversion.json").unlink()
    assert run("pad", folder, "--in-place").status == 0
    assert run("verify", folder, "--certificate").status == 3
    assert run("verify", folder, "--level", "structure,tokenizer").status == 0
