"""`pad`, `resize` and `convert --pad` on the command line: what is chosen, said, written and proven."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_convert.convert import open_checkpoint
from tests.cli.commands import Result, change_json
from tests.cli.conftest import check_refusal
from tests.cli.folders import inodes, tensor, values

Run = Callable[..., Result]
FINETUNE, RESERVED = "<|finetune_right_pad_id|> (516)", "<|reserved_special_token_250|> (767)"


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
    made = values(output, "conversion.json")["options"]["made_rows"]
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
    head = output / places["lm_head.weight"]
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
