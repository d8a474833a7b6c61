"""A repository's name in place of a folder: fetched, then read as any folder is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from tests.cli.commands import Result, leftovers
from tests.cli.conftest import OTHER, check_refusal
from tests.cli.hub_commands import User
from tests.hub.downloads import NAME, everything, file_bytes
from tests.hub.fake_hub import Account, FakeHub

Run = Callable[..., Result]


def test_a_gated_repository_in_one_command(user: User, herd: FakeHub) -> None:
    """Downloaded, converted and proven; from the original, for its other format is the one to be made."""
    commit = herd.add(NAME, {}, gated="manual")
    herd.tokens["hf_good"] = Account(name="reader", may_read={NAME})
    refused = user.runs("convert", NAME, "output")
    assert (refused.status, file_bytes(herd), leftovers(user.home / "output")) == (4, 0, [])
    assert "gated, and there is no token" in refused.complaint[0]
    done = user.runs("convert", NAME, "output", "--json", HF_TOKEN="hf_good")
    assert done.status == 0, done.err
    assert done.err.startswith(f"{NAME}: original at commit ")
    assert (done.json["ok"], done.json["verified"]["ok"]) == (True, True)
    certificate = json.loads((user.home / "output" / "conversion.json").read_text())
    source = certificate["source"]
    assert (source["format"], source["repository"], source["commit"]) == ("meta", NAME, commit)
    assert certificate["verified"]["ok"] is True
    asked = {request.host: request.headers.get("authorization") for request in herd.requests if request.sent_bytes}
    assert asked["cdn"] is None, "the token stays on the Hub"


def test_transformers_loads_the_cache_offline(herd: FakeHub, run: Run) -> None:
    from transformers import AutoModelForCausalLM

    assert run("download", NAME).status == 0
    herd.clear()
    model = AutoModelForCausalLM.from_pretrained(NAME, cache_dir=constants.HF_HUB_CACHE, local_files_only=True)
    assert model.config.model_type == "llama"
    assert herd.requests == []


def test_what_is_converted_suits_the_target(herd: FakeHub, run: Run, output: Path) -> None:
    assert run("convert", NAME, output, "--to", "scratch", "--no-verify").status == 0
    assert json.loads((output / "conversion.json").read_text())["source"]["format"] == "hf"
    assert "verified" not in json.loads((output / "conversion.json").read_text())
    assert run("convert", f"{OTHER}@main", output, "--to", "meta", "--overwrite", "--no-verify").status == 0
    assert json.loads((output / "conversion.json").read_text())["source"]["format"] == "meta"


def test_files_are_called_after_the_repository_and_its_other_format_does_no_harm(
    herd: FakeHub, run: Run, tmp_path: Path
) -> None:
    """The cache's folders are named after commits. A certificate speaks of its own weights, not of original/."""
    assert run("download", NAME, "--what", "original").status == 0
    done = run("convert", NAME, tmp_path / "out", "--to", "gguf", "--what", "hf")
    assert done.status == 0, done.out
    name = NAME.rpartition("/")[2]
    assert [path.name for path in (tmp_path / "out").glob("*.gguf")] == [f"{name}-bf16.gguf"]
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["source"]["folder"] == name


def test_a_files_name_is_refused_before_anything_is_fetched(herd: FakeHub, run: Run) -> None:
    refused = run("convert", NAME, "model.gguf", "--to", "gguf")
    check_refusal(refused, 2)
    assert "model.gguf: has the name of a file" in refused.err
    assert file_bytes(herd) == 0


def test_a_folder_comes_before_the_hub(herd: FakeHub, run: Run, output: Path, converted: Path) -> None:
    shutil.copytree(converted, NAME)
    assert run("convert", NAME, output, "--to", "scratch").status == 0
    assert herd.requests == []
    assert "verified" not in json.loads((output / "conversion.json").read_text()), "a folder is proven when asked for"


def test_both_sides_of_a_comparison(herd: FakeHub, run: Run, converted: Path) -> None:
    proven = run("verify", OTHER, converted, "--level", "files,tensors")
    assert (proven.status, "the same model" in proven.out) == (0, True), proven.err
    assert run("diff", NAME, OTHER, "-q").status == 0
    herd.clear()
    assert run("verify", NAME, "--level", "files").status == 0
    assert file_bytes(herd) == 0


def test_pad_and_resize(herd: FakeHub, run: Run, output: Path) -> None:
    assert run("pad", NAME, output).status == 0
    before = everything(Path(constants.HF_HUB_CACHE))
    shutil.rmtree(output)
    assert run("resize", NAME, output, "--multiple-of", "100").status == 0
    refused = run("pad", NAME, "--in-place")
    check_refusal(refused, 2)
    assert f"--in-place: {NAME} is no folder here" in refused.err
    check_refusal(run("pad", NAME), 2)
    assert everything(Path(constants.HF_HUB_CACHE)) == before


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--to", "onnx"], 2, "onnx: no such format"),
        ([], 2, "exists and is not empty"),
    ],
)
def test_what_cannot_end_well_is_refused_first(
    herd: FakeHub, run: Run, output: Path, options: list[str], status: int, words: str
) -> None:
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    refused = run("convert", NAME, output, *options)
    check_refusal(refused, status)
    assert words in refused.err
    assert file_bytes(herd) == 0


def test_the_disk_must_do_for_source_and_output(
    herd: FakeHub, run: Run, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = run("convert", NAME, output, "--dry-run", "--json").json["download"]
    weights = sum(entry["size"] for entry in plan["files"] if entry["path"].endswith(".pth"))
    needed = plan["nbytes"] + weights
    assert [disk["needed"] for disk in plan["disks"]] == [needed]
    quantized = run("convert", OTHER, output, "--to", "gguf", "--quantize", "q4_0", "--dry-run", "--json").json
    assert [disk["needed"] for disk in quantized["download"]["disks"]] == [plan["nbytes"] + weights * 9 // 32]
    herd.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=10**9, used=0, free=needed - 1))
    refused = run("convert", NAME, output)
    check_refusal(refused, 5)
    assert f"{NAME}: not enough disk space" in refused.err
    assert file_bytes(herd) == 0
    assert leftovers(output) == []


def test_neither_here_nor_there(herd: FakeHub, run: Run, output: Path) -> None:
    refused = run("convert", "herd/nothing", output)
    check_refusal(refused, 4)
    assert "herd/nothing: not found, or private" in refused.err
    assert "(and there is no such folder or file here)" in refused.err
    herd.clear()
    for source in ("nothing", "./herd/nothing/here", "/herd/nothing"):
        refused = run("convert", source, output)
        check_refusal(refused, 2)
        assert "no such folder or file" in refused.err
    assert herd.requests == []
