"""The model card: front matter that the Hub reads, and instructions that work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llama_convert.cli import main
from llama_convert.convert.formats import FORMATS
from llama_convert.convert.json_files import read_object
from llama_convert.convert.versions import VERSIONS
from llama_convert.hub import licence_of, model_card, visible_files
from tests.checkpoints import CASES, Case
from tests.hub.fake_hub import FakeHub

NAME = "herd/llama"
# Identifiers of the Hub's list of licences; None: it has none, so `other` with a name.
LICENCES = {
    "1": None, "2": "llama2", "code": "llama2", "3": "llama3", "3.1": "llama3.1", "3.2": "llama3.2", "3.3": "llama3.3",
    "guard-1": "llama2", "guard-2": "llama3", "guard-3": "llama3.1",
}  # fmt: skip


def certificate(**source: str) -> dict[str, Any]:
    """As much of a conversion.json as a card needs."""
    return {
        "tool": {"llama-convert": "0.1.0"},
        "date": "2026-01-02T03:04:05+00:00",
        "options": {"to": "gguf", "quantize": "q8_0", "dtype": None, "check": True},
        "source": {"folder": "Llama", "format": "meta", "llama_version": "3.1", **source},
        "target": {"format": "gguf", "files": {}},
        "tensors": {"a": {"dtype": "q8_0"}, "b": {"dtype": "float32"}},
        "verified": {
            "date": "2026-01-02T03:05:06+00:00",
            "a": "Llama",
            "ok": True,
            "levels": [{"name": "logits", "verdict": "passed", "figures": "difference 1e-6 | gate 2e-6"}],
        },
    }


def metadata(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def converted(case: str, form: str, folder: Path, checkpoint: Callable[[Case], Path]) -> Path:
    handler = signal.getsignal(signal.SIGTERM)
    source = checkpoint(next(found for found in CASES if found.name == case))
    assert main(["convert", str(source), str(folder), "-q", "--to", form]) == 0
    signal.signal(signal.SIGTERM, handler)
    return folder


def written(folder: Path) -> dict[str, Any]:
    """Its conversion.json, with a verdict."""
    return read_object(folder / "conversion.json") | {"verified": certificate()["verified"]}


def test_from_the_hub() -> None:
    values = certificate(repository="meta-llama/Llama-3.1-8B", commit="a" * 40)
    card = model_card(values, NAME, ["model.gguf"])
    assert metadata(card) == {
        "base_model": "meta-llama/Llama-3.1-8B",
        "base_model_relation": "quantized",
        "license": "llama3.1",
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["llama", "llama-3.1", "gguf", "llama-convert"],
    }
    assert f"`meta-llama/Llama-3.1-8B` at commit `{'a' * 40}`" in card
    assert "Built with Llama." in card
    assert r"difference 1e-6 \| gate 2e-6" in card, "the verdict's figures, which do not break the table"
    assert "--hf-repo herd/llama --hf-file model.gguf" in card
    values["tensors"] = {"a": {"dtype": "bfloat16"}}
    assert "base_model_relation" not in metadata(model_card(values, NAME, []))
    assert "base_model" not in metadata(model_card(certificate(), NAME, [])), "nobody knows it"


def test_the_verdict_says_no_more_than_was_found() -> None:
    values = certificate()
    values["verified"]["levels"][0]["verdict"] = "not checked"
    card = model_card(values, NAME, [])
    assert "not everything was checked" in card
    assert "the same model" not in card
    resized = model_card(certificate() | {"vocabulary": {"pad": 0, "rows": 9}}, NAME, [])
    assert "found to be the same model but for its vocabulary." in resized


@pytest.mark.parametrize("version", VERSIONS)
def test_licences(version: str) -> None:
    assert set(LICENCES) == set(VERSIONS)
    licence, found = LICENCES[version], metadata(model_card(certificate(llama_version=version), NAME, ["LICENSE"]))
    told = {key: value for key, value in found.items() if key.startswith("license")}
    if licence is None:
        assert licence_of(version) is None
        assert told == {"license": "other", "license_name": f"llama-{version}", "license_link": "LICENSE"}
    else:
        assert told == {"license": licence}


@pytest.mark.parametrize("form", [form.name for form in FORMATS])
def test_every_format(form: str, tmp_path: Path, meta_checkpoint: Callable[[Case], Path]) -> None:
    """What is said of loading names files that are there."""
    case = "2" if form == "llama2c" else "3"  # llama2.c runs no later one
    folder = converted(case, form, tmp_path / "model", meta_checkpoint)
    files = visible_files(folder)
    card = model_card(written(folder), NAME, files)
    assert metadata(card)["license"] == f"llama{case}"
    assert "the result was held against its source: found to be the same model." in card
    how = card.split("## How to load it")[1]
    named = set(re.findall(r"[\w.-]+\.(?:pth|gguf|json|bin)\b", how))
    assert named <= {Path(name).name for name in files}
    assert named or "download herd/llama" in how or form in ("hf", "mlx")


def test_loading_works(hub: FakeHub, tmp_path: Path, meta_checkpoint: Callable[[Case], Path]) -> None:
    """The lines of the card, run as they stand."""
    code = []
    for form in ("hf", "scratch"):
        folder = converted("3", form, tmp_path / form, meta_checkpoint)
        files = visible_files(folder)
        hub.add(f"herd/{form}", {name: folder / name for name in files})
        card = model_card(written(folder), f"herd/{form}", files)
        code += re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(code) == 2
    known = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "home"), **hub.environment}
    program = "\n".join([*code, "print(tokenizer('a b').input_ids, sum(p.numel() for p in model.parameters()))"])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=known, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "herd/hf" in "".join(request.path for request in hub.requests)
