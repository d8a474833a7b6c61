"""`pad`, `resize` and `convert --pad` on the command line: what is chosen, said and refused; changes in place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_convert.cli import main
from llama_convert.convert import Checkpoint, open_checkpoint
from llama_convert.convert import in_place as module
from tests.checkpoints import random_model, write_meta
from tests.cli.commands import Result, change_json, leftovers
from tests.cli.conftest import check_refusal

Run = Callable[..., Result]
FINETUNE, RESERVED = "<|finetune_right_pad_id|> (516)", "<|reserved_special_token_250|> (767)"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `hf-VERSION` with models that are not tied but for 3.2's, several weight files each."""
    place = tmp_path_factory.mktemp("folders")
    for version in ("2", "3", "3.1", "3.2"):
        model = random_model(version)
        meta = write_meta(model, place / f"meta-{version}", tokenizer=model.tokenizer)
        assert main(["convert", str(meta), str(place / f"hf-{version}"), "-q", "--shard-size", "500kB"]) == 0
    return place


@pytest.fixture
def hf(folders: Path, tmp_path: Path) -> Callable[[str], Path]:
    """version -> a copy of its folder, which the test may change."""
    return lambda version: Path(shutil.copytree(folders / f"hf-{version}", tmp_path / f"hf-{version}"))


def values(folder: Path, name: str = "config.json") -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / name).read_text())
    return found


def tensor(folder: Path, name: str) -> torch.Tensor:
    from safetensors.torch import load_file

    places = values(folder, "model.safetensors.index.json")["weight_map"]
    return load_file(folder / places[name])[name]  # type: ignore[index]


def inodes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what is chosen ----


@pytest.mark.parametrize(
    ("version", "options", "said", "pad", "rows"),
    [
        ("3.1", (), FINETUNE, 516, 768),
        ("3.2", (), FINETUNE, 516, 768),
        ("3.1", ("--no-reuse-reserved",), FINETUNE, 516, 768),
        ("3", (), RESERVED, 767, 768),
        ("3", ("--no-reuse-reserved",), "<pad> (768) is new", 768, 769),
        ("3", ("--token", "<mine>"), "<mine> (768) is new", 768, 769),
        ("3", ("--token", "<|reserved_special_token_3|>"), "<|reserved_special_token_3|> (517)", 517, 768),
        ("3.1", ("--token", "<pad>", "--multiple-of", "64"), "832 rows, a multiple of 64", 768, 832),
        ("2", (), "<unk> is also what unknown text becomes: its loss would be masked too", 512, 513),
        ("2", ("--multiple-of", "64"), "<pad> (512) is new", 512, 576),
    ],
)
def test_the_best_way_is_chosen_and_told(
    version: str, options: tuple[str, ...], said: str, pad: int, rows: int, folders: Path, run: Run, output: Path
) -> None:
    result = run("pad", folders / f"hf-{version}", output, *options, "--json")
    assert result.status == 0, result.err
    assert said in result.err
    assert said in result.json["vocabulary"]["why"]
    assert (values(output)["pad_token_id"], values(output)["vocab_size"]) == (pad, rows)
    assert open_checkpoint(output).config.vocab_size == rows
    made = values(output, "conversion.json")["options"]["made_rows"]  # type: ignore[index]
    assert (made is None) == (rows in (512, 768))


def test_a_pad_that_is_there_is_kept(hf: Callable[[str], Path], run: Run, output: Path) -> None:
    folder = hf("3")
    assert run("pad", folder, "--in-place").status == 0
    before = inodes(folder)
    again = run("pad", folder, "--in-place")
    assert again.status == 0
    assert f"pads with {RESERVED} already" in again.out
    assert "Nothing is written" in again.out
    assert inodes(folder) == before
    assert run("pad", folder, output, "--quiet").status == 0
    assert values(output)["pad_token_id"] == 767
    assert run("pad", folder, "--in-place", "--token", "<pad>", "--quiet").status == 0
    assert values(folder)["pad_token_id"] == 768


@pytest.mark.parametrize("pad", [0, 1, 2])
def test_a_pad_with_another_task_is_none(pad: int, hf: Callable[[str], Path], run: Run, output: Path) -> None:
    """Unknown, begin and end token of Llama 2: configs that pad with them are common."""
    folder = hf("2")
    change_json(folder / "config.json", pad_token_id=pad)
    assert run("pad", folder, output).status == 0
    assert values(output)["pad_token_id"] == 512


def test_a_reserved_token_that_the_template_uses_is_not_taken(
    hf: Callable[[str], Path], run: Run, output: Path
) -> None:
    folder = hf("3")
    change_json(folder / "tokenizer_config.json", chat_template="{{ '<|reserved_special_token_250|>' }}")
    assert run("pad", folder, output).status == 0
    assert values(output)["pad_token_id"] == 766


def test_convert_pads_on_the_way(folders: Path, run: Run, output: Path) -> None:
    result = run("convert", folders / "meta-2", output, "--to", "gguf", "--quantize", "q8_0", "--pad")
    assert result.status == 0, result.err
    assert "<pad> (512) is new" in result.err
    assert open_checkpoint(output).config.vocab_size == 513


def test_a_changed_vocabulary_is_proven(folders: Path, run: Run, output: Path) -> None:
    """Every old row and weight, every old token, the logits; and the new row is nowhere the first choice."""
    for command, options in (("convert", ("--pad", "--to", "gguf")), ("pad", ("--multiple-of", 64))):
        result = run(command, folders / "meta-2", output, *options, "--verify", "--overwrite")
        assert result.status == 0, result.out + result.err
        assert "the same model but for its vocabulary" in result.out
        lines = [line for line in result.out.splitlines()[1:-1] if not line.startswith(" ")]
        levels = [line.split("  ")[0] for line in lines]
        assert levels == ["structure", "tensors", "tokenizer", "logits", "new rows"]
    assert "the same model\n" in run("pad", folders / "hf-3", output, "--verify", "--overwrite").out


def test_a_change_that_touches_what_was_there_is_found(folders: Path, output: Path, run: Run) -> None:
    from llama_convert.verify import Verdict, verify_resized

    assert run("pad", folders / "hf-2", output, "-q", "--shard-size", "500kB").status == 0
    places = values(output, "model.safetensors.index.json")["weight_map"]
    head = output / places["lm_head.weight"]  # type: ignore[index]
    place = head.stat().st_size - 2 * 192  # in the new row of the last tensor, or in an old one
    for offset, wrong in ((place, {"new rows"}), (place - 192 * 100, {"tensors", "logits"})):
        data = bytearray(head.read_bytes())
        kept = bytes(data)
        data[offset : offset + 2 * 192] = torch.full((192,), 50.0).bfloat16().view(torch.uint8).numpy().tobytes()
        head.write_bytes(data)
        found = {level.name for level in verify_resized(folders / "hf-2", output) if level.verdict is Verdict.FAILED}
        assert wrong <= found
        head.write_bytes(kept)


def test_resize_takes_names_and_files_of_names(folders: Path, run: Run, output: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("<|a|>\n\n<|b c|>\n", encoding="utf-8")
    options = ("--add-tokens", tmp_path / "names.txt", "--add-tokens", "<|d|>", "--special", "--multiple-of", 64)
    result = run(
        "resize", folders / "hf-3", output, *options, "--init", "copy:<|eot_id|>", "--json", "--shard-size", "500kB"
    )
    assert result.status == 0, result.err
    told = result.json["vocabulary"]
    assert [(token["id"], token["text"], token["special"]) for token in told["tokens"]] == [
        (768, "<|a|>", True),
        (769, "<|b c|>", True),
        (770, "<|d|>", True),
    ]
    assert (told["rows_before"], told["rows"]) == (768, 832)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        table = tensor(output, name)
        assert torch.equal(table[:768], tensor(folders / "hf-3", name))
        assert torch.equal(table[768:], table[521].expand(64, -1))


def test_rows_that_no_token_uses_are_taken_first_and_can_go(folders: Path, run: Run, tmp_path: Path) -> None:
    wide, named, narrow = tmp_path / "wide", tmp_path / "named", tmp_path / "narrow"
    assert run("resize", folders / "hf-3", wide, "--multiple-of", 100, "--shard-size", "500kB").status == 0
    result = run("resize", wide, named, "--add-tokens", "<|a|>", "--shard-size", "500kB", "--json")
    assert "1 row that no token used is taken as found" in result.err
    assert result.json["vocabulary"]["tokens"][0]["id"] == 768
    assert torch.equal(tensor(named, "lm_head.weight"), tensor(wide, "lm_head.weight"))
    assert run("resize", wide, narrow, "--vocab-size", 768, "--shard-size", "500kB").status == 0
    assert torch.equal(tensor(narrow, "lm_head.weight"), tensor(folders / "hf-3", "lm_head.weight"))
    check_refusal(run("resize", named, tmp_path / "x", "--vocab-size", 768), 2)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("pad", "hf-2", "--token", "<unk>"), "<unk> is also what unknown text becomes: its loss would be masked too"),
        (("pad", "hf-2", "--token", "</s>"), "also ends texts"),
        (("pad", "hf-3", "--token", "<|eot_id|>"), "exists already (id 521)"),
        (("pad", "hf-3", "--token", "a"), "exists already (id 64)"),
        (("pad", "hf-3", "--token", ""), "is no name for a token"),
        (("pad", "hf-3", "--multiple-of", 0), "--multiple-of 0: not a size"),
        (("resize", "hf-3", "--add-tokens", "<|eot_id|>"), "'<|eot_id|>' exists already, with id 521"),
        (("resize", "hf-2", "--add-tokens", "<s>"), "'<s>' exists already, with id 1"),
        (("resize", "hf-3", "--add-tokens", "<|a|>", "--add-tokens", "<|a|>"), "'<|a|>' is given twice"),
        (("resize", "hf-3", "--vocab-size", 766), "2 tokens would be lost: '<|reserved_special_token_249|>'"),
        (("resize", "hf-3", "--vocab-size", 768, "--add-tokens", "<|a|>"), "too few rows for 768 tokens and 1 new"),
        (("resize", "hf-3", "--vocab-size", 800, "--multiple-of", 64), "contradict each other"),
        (("resize", "hf-3"), "nothing to do"),
        (("resize", "hf-3", "--vocab-size", 768), "nothing to do"),
        (("resize", "hf-3", "--vocab-size", 800, "--init", "copy:<|nobody|>"), "the tokenizer has no such token"),
        (("resize", "hf-3", "--vocab-size", 800, "--init", "copy"), "there is no such"),
        (("resize", "hf-3", "--vocab-size", 800, "--init", "xavier"), "there is no such"),
    ],
)
def test_it_is_refused_in_one_line(
    command: tuple[object, ...], said: str, folders: Path, run: Run, output: Path
) -> None:
    name, source, *options = command
    result = run(name, folders / str(source), output, *options)
    check_refusal(result, 2)
    assert said in "\n".join(result.complaint)
    assert leftovers(output) == []


def test_an_id_that_the_configuration_uses_is_taken(hf: Callable[[str], Path], run: Run, output: Path) -> None:
    folder = hf("3")
    assert run("resize", folder, "--in-place", "--vocab-size", 800).status == 0
    change_json(folder / "config.json", pad_token_id=768)
    result = run("resize", folder, output, "--add-tokens", "<|a|>")
    check_refusal(result, 2)
    assert "id 768 is taken: it pads, and no token has it" in result.err


def test_a_quantised_source_needs_a_type(folders: Path, run: Run, output: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    assert run("convert", folders / "hf-3", small, "--to", "gguf", "--quantize", "q8_0").status == 0
    refused = run("pad", small, output, "--token", "<pad>")
    check_refusal(refused, 2)
    assert "a quantised source needs --dtype" in refused.err
    assert run("pad", small, output).status == 0  # no row is added: nothing would be rounded
    done = run("pad", small, tmp_path / "wide", "--token", "<pad>", "--dtype", "bfloat16")
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("pad", "hf-3"), "DST is missing"),
        (("pad", "hf-3", "DST", "--in-place"), "which is to be written?"),
        (("pad", "hf-3", "--in-place", "--dtype", "float32"), "change every file"),
        (("pad", "hf-3", "--in-place", "--to", "gguf"), "is for Hugging Face folders that stay such"),
        (("pad", "meta-3", "--in-place"), "is for Hugging Face folders that stay such"),
    ],
)
def test_in_place_is_for_folders_of_hugging_face(
    command: tuple[str, ...], said: str, folders: Path, run: Run, output: Path
) -> None:
    before = contents(folders)
    paths = {"hf-3": folders / "hf-3", "meta-3": folders / "meta-3", "DST": output}
    result = run(*(paths.get(word, word) for word in command))
    check_refusal(result, 2)
    assert said in result.err
    assert contents(folders) == before


# ---- in place ----


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
    tables = {name: tensor(folder, name) for name in places}  # type: ignore[attr-defined]
    result = run("pad", folder, "--in-place", "--token", "<pad>")
    assert result.status == 0, result.err
    after = inodes(folder)
    changed = {places[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}  # type: ignore[index]
    kept = {name for name in before if name.endswith(".safetensors")} - changed
    assert kept
    assert all(before[name] == after[name] for name in kept)
    assert all(before[name] != after[name] for name in changed)
    assert values(folder)["mine"] == "kept"
    index = values(folder, "model.safetensors.index.json")
    assert index["weight_map"] == places
    total = sum(tensor(folder, name).nbytes for name in places)  # type: ignore[attr-defined]
    assert index["metadata"]["total_size"] == total  # type: ignore[index]
    for name, table in tables.items():
        assert torch.equal(tensor(folder, name)[: len(table)], table)
    assert isinstance(open_checkpoint(folder), Checkpoint)


def test_in_place_is_what_a_copy_would_be(folders: Path, hf: Callable[[str], Path], run: Run, output: Path) -> None:
    folder = hf("2")
    assert run("pad", folder, "--in-place").status == 0
    assert run("pad", folders / "hf-2", output, "--shard-size", "500kB").status == 0
    places = values(output, "model.safetensors.index.json")["weight_map"]
    assert all(torch.equal(tensor(folder, name), tensor(output, name)) for name in places)  # type: ignore[attr-defined]
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
    path = folder / values(folder, "model.safetensors.index.json")["weight_map"]["model.layers.0.mlp.up_proj.weight"]  # type: ignore[index]
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
