"""The format that docs/adding-a-format.md adds, installed from outside as a package of somebody else's would be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoints import CASES

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-format.md"
CASE = CASES[4]


def code() -> str:
    found = re.search(r"<!-- plain_format\.py -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def entry_points() -> str:
    found = re.search(r'\[project\.entry-points\."(.+?)"\]\n(\w+) = "(.+?)"', PAGE.read_text(encoding="utf-8"))
    assert found
    return f"[{found[1]}]\n{found[2]} = {found[3]}\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder as site-packages is: the module, and the metadata of its package."""
    folder: Path = tmp_path_factory.mktemp("site")
    (folder / "plain_format.py").write_text(code(), encoding="utf-8")
    metadata = folder / "plain_format-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-format\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points())
    return folder


def command(installed: Path | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    path = {} if installed is None else {"PYTHONPATH": str(installed)}
    line = [sys.executable, "-c", "import sys; from llama_convert.cli import main; sys.exit(main())"]
    return subprocess.run(
        [*line, *map(str, arguments)], env=os.environ | path, capture_output=True, text=True, check=False
    )


def test_there_and_back(installed: Path, meta_checkpoint, tmp_path: Path) -> None:
    source, version = meta_checkpoint(CASE), ["--llama-version", CASE.version]
    steps = [
        ("convert", source, tmp_path / "hf", *version),
        ("convert", source, tmp_path / "plain", "--to", "plain", "--verify", *version),
        ("convert", tmp_path / "plain", tmp_path / "again", "--to", "hf"),
        ("verify", tmp_path / "hf", tmp_path / "plain"),
    ]
    for step in steps:
        done = command(installed, *step)
        assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (tmp_path / "hf" / "tokenizer.json").read_bytes()
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    fused = load_file(tmp_path / "plain" / "plain.safetensors")["0.query_key_value"]
    assert not torch.equal(fused[: len(fused) // 5 * 3], before["model.layers.0.self_attn.q_proj.weight"])


def test_without_the_package_it_is_unknown(meta_checkpoint, tmp_path: Path) -> None:
    """Negative control."""
    done = command(None, "convert", meta_checkpoint(CASE), tmp_path / "plain", "--to", "plain")
    assert (done.returncode, "plain: no such format" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("change", "words"),
    [(('name="plain"', 'name="hf"'), "has a name that is taken"), (("PLAIN = Format(", "PLAIN = dict("), "it is none")],
)
def test_a_package_that_adds_no_format(change: tuple[str, str], words: str, installed: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    for path in installed.rglob("*"):
        if path.is_file():
            (site / path.relative_to(installed)).parent.mkdir(parents=True, exist_ok=True)
            (site / path.relative_to(installed)).write_bytes(path.read_bytes())
    (site / "plain_format.py").write_text(code().replace(*change))
    done = command(site, "inspect", tmp_path)
    assert (done.returncode, words in done.stderr) == (2, True)
