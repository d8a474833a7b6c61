"""Which of a repository's checkpoints is converted: named by the user, or told by what is here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.containers.slices import DType
from tests.checkpoints import Case
from tests.cli.commands import Result
from tests.cli.conftest import BY_NAME, as_files, check_refusal
from tests.convert.test_huggingface_quantised import KINDS, quantised
from tests.hub.downloads import NAME, file_bytes
from tests.hub.fake_hub import FakeHub

Run = Callable[..., Result]
WEIGHTS = (".pth", ".gguf", ".safetensors")


@pytest.fixture
def several(herd: FakeHub, meta_checkpoint: Callable[[Case], Path], tmp_path: Path) -> FakeHub:
    """Beside the model in two formats: two GGUF files, and its original split in two ways."""
    source = meta_checkpoint(BY_NAME["3-2shards"])
    for name, request in {"bf16": Request(), "q8_0": Request(quantize=DType.Q8_0)}.items():
        folder = convert_checkpoint(plan_conversion(source, to="gguf", request=request), tmp_path / name).folder
        (path,) = folder.glob("*.gguf")
        herd.add(NAME, {f"llama-{name.upper()}.gguf": path})
    split = convert_checkpoint(plan_conversion(source, to="meta", request=Request(shards=1)), tmp_path / "mp1").folder
    herd.add("herd/split", {**as_files(source, "original/mp2/"), **as_files(split, "original/mp1/")})
    return herd


def converted_from(output: Path) -> set[str]:
    """The weight files that the output was made of."""
    source = json.loads((output / "conversion.json").read_text())["source"]
    return {name for name in source["files"] if name.endswith(WEIGHTS)}


HF = {f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)}
ORIGINAL = {"consolidated.00.pth", "consolidated.01.pth"}


@pytest.mark.parametrize(
    ("name", "what", "files"),
    [
        (NAME, "hf", HF),
        (NAME, "gguf:BF16", {"llama-BF16.gguf"}),
        (NAME, "gguf:q8_0", {"llama-Q8_0.gguf"}),
        ("herd/split", "original:mp1", {"consolidated.00.pth"}),
        ("herd/split", "original:mp2", ORIGINAL),
    ],
)
def test_the_one_that_is_named(several: FakeHub, run: Run, output: Path, name: str, what: str, files: set[str]) -> None:
    planned = run("convert", name, output, "--what", what, "--dry-run", "--json").json
    assert planned["plan"]["target"] == "hf"
    done = run("convert", name, output, "--what", what, "--no-verify")
    assert done.status == 0, done.err
    assert converted_from(output) == files


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (NAME, ["--what", "gguf"], "gguf could be any of 2"),
        (NAME, ["--what", "gguf:Q4_0"], f"{NAME}: no gguf:Q4_0 there"),
        ("herd/split", [], "original could be any of 2"),
        (NAME, ["--what", "tokenizer"], "--what tokenizer: holds no weights"),
        (".", ["--what", "hf"], "--what hf: . is no repository"),
    ],
)
def test_what_cannot_be_meant(
    several: FakeHub, run: Run, output: Path, name: str, options: list[str], words: str
) -> None:
    refused = run("convert", name, output, *options)
    check_refusal(refused, 2)
    assert words in refused.err
    assert file_bytes(several) == 0
    advice = refused.complaint[-1]
    if "any of" in words:
        assert advice.startswith("Name one, such as --what ")
        assert run("convert", name, output, "--what", advice.rstrip(".").split()[-1], "--dry-run").status == 0


def test_what_is_here_is_converted_rather_than_fetched(herd: FakeHub, run: Run, output: Path) -> None:
    """For GGUF Hugging Face's layout suits best; Meta's serves as well, and is here. A name that is given wins."""
    assert run("download", NAME, "--what", "original").status == 0
    herd.clear()
    line = re.compile(r"original is used, for all of it is here; --what hf takes that, \d\.\d MB")
    planned = run("convert", NAME, output, "--to", "gguf", "--dry-run")
    assert line.fullmatch(planned.out.splitlines()[1])
    values = run("convert", NAME, output, "--to", "gguf", "--dry-run", "--json").json
    assert (values["download"]["what"], values["download"]["instead_of"]) == ("original", "hf")
    done = run("convert", NAME, output, "--to", "gguf", "--no-verify")
    assert line.fullmatch(done.err.splitlines()[1])
    assert (converted_from(output), file_bytes(herd)) == (ORIGINAL, 0)
    named = run("convert", NAME, output, "--to", "gguf", "--no-verify", "--what", "hf", "--overwrite")
    assert (converted_from(output), "is used" in named.err) == (HF, False)
    again = run("convert", NAME, output, "--to", "gguf", "--no-verify", "--overwrite")
    assert (converted_from(output), "is used" in again.err) == (HF, False), "both are here: the one that suits"


def spoilt(blob: Path) -> None:
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)


@pytest.mark.parametrize("change", [Path.unlink, spoilt])
def test_what_is_here_in_part_or_damaged_does_not_serve(
    herd: FakeHub, run: Run, output: Path, change: Callable[[Path], None]
) -> None:
    assert run("download", NAME, "--what", "original").status == 0
    (weights,) = Path(constants.HF_HUB_CACHE).rglob("snapshots/*/original/consolidated.01.pth")
    change(weights.resolve())
    done = run("convert", NAME, output, "--to", "gguf", "--no-verify")
    assert (done.status, converted_from(output)) == (0, HF)


@pytest.mark.parametrize("kind", ["quantised", "another model"])
def test_what_is_here_and_not_the_same_does_not_serve(
    herd: FakeHub,
    run: Run,
    output: Path,
    converted: Path,
    meta_checkpoint: Callable[[Case], Path],
    tmp_path: Path,
    kind: str,
) -> None:
    """Its values were rounded, or it is no Llama at all: what suits is fetched, as if nothing were here."""
    weights = {name: tensor for path in converted.glob("*.safetensors") for name, tensor in load_file(path).items()}
    config, make = KINDS["fbgemm_fp8"]
    folder = quantised(converted, tmp_path / "fp8", config, make(weights)[0])
    changed = {} if kind == "quantised" else {"config.json": b'{"model_type": "gpt2"}'}
    herd.add(
        "herd/fp8", {**as_files(folder), **changed, **as_files(meta_checkpoint(BY_NAME["3-2shards"]), "original/")}
    )
    assert run("download", "herd/fp8", "--what", "hf").status == 0
    done = run("convert", "herd/fp8", output, "--to", "hf", "--no-verify")
    assert done.status == 0, done.err
    assert converted_from(output) == ORIGINAL
