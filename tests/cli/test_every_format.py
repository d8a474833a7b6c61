"""What holds for every format in the registry, through the real command: proof, damage, nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_convert.cli import main
from llama_convert.convert import open_checkpoint
from llama_convert.convert.formats import FORMATS
from tests.checkpoints import random_model, write_meta
from tests.cli.commands import Result

NAMES = [form.name for form in FORMATS]
Run = Callable[..., Result]
Refuses = Callable[..., str]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name of a format -> a model that every format can hold, in that format; read only."""
    place = tmp_path_factory.mktemp("every")
    model = random_model("2", dtype=torch.float32)
    source = write_meta(model, place / "source", tokenizer=model.tokenizer)

    def made(name: str) -> Path:
        folder: Path = place / name
        if not folder.exists():
            assert main(["convert", str(source), str(folder), "--to", name, "--quiet"]) == 0
        return folder

    return made


@pytest.fixture
def folder(written: Callable[[str], Path], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written(request.param), tmp_path / request.param))


def weights(folder: Path) -> Path:
    """The file of weights."""
    return open_checkpoint(folder).files[0].path


every = pytest.mark.parametrize("folder", NAMES, indirect=True)


@every
def test_it_is_recognised_and_proven(folder: Path, written: Callable[[str], Path], run: Run) -> None:
    found = run("inspect", folder, "--json").json
    assert found["format"] == folder.name
    done = run("convert", folder, folder.with_name("out"), "--to", "hf", "--verify")
    assert done.status == 0, done.out + done.err
    assert run("verify", written("meta"), folder).status == 0


@every
def test_it_writes_what_the_source_writes(folder: Path, written: Callable[[str], Path], run: Run) -> None:
    """Each run as it stands, with its own tokenizer; of a random model every wrong weight is seen at once.

    Tokens, not text: of bytes that are no UTF-8 each library makes something else.
    """
    wish = ("--prompt", "la ba de", "--max-new-tokens", 24, "--eos", 0, "--json")
    (wanted,) = run("generate", written("meta"), *wish).json["answers"]
    (found,) = run("generate", folder, *wish).json["answers"]
    assert (found["prompt_ids"], found["ids"]) == (wanted["prompt_ids"], wanted["ids"])
    assert len(set(found["ids"])) > 5


@every
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(folder: Path, refuses: Refuses, share: float) -> None:
    path = weights(folder)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    told = refuses(folder)  # an empty .bin could be anybody's: there the folder is what is told
    assert path.name in told or (share == 0.0 and str(folder) in told)


@every
def test_a_file_of_something_else_is_refused(folder: Path, refuses: Refuses) -> None:
    path = weights(folder)
    path.write_bytes(b"<!DOCTYPE html><html>Access denied</html>")
    assert path.name in refuses(folder) or folder.name in refuses(folder)


# GGUF has it in the file of the weights.
@pytest.mark.parametrize("folder", [name for name in NAMES if name != "gguf"], indirect=True)
def test_a_lost_tokenizer_is_told(folder: Path, refuses: Refuses) -> None:
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer.bin", "original/tokenizer.model"):
        (folder / name).unlink(missing_ok=True)
    (folder / "checklist.chk").unlink(missing_ok=True)
    assert "no tokenizer" in refuses(folder)


@pytest.mark.parametrize("to", NAMES)
def test_an_option_of_another_format_is_refused(to: str, written: Callable[[str], Path], refuses: Refuses) -> None:
    form = next(form for form in FORMATS if form.name == to)
    options = {
        "shards": ("--shards", 2),
        "shard_size": ("--shard-size", "1MB"),
        "output_type": ("--output-type", "q8_0"),
    }
    for field, option in options.items():
        if field not in form.options:
            assert option[0] in refuses(written("meta"), "--to", to, *option, status=2)
