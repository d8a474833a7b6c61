"""`verify --report` through the real command: what the page says, that it stands alone, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html import escape, unescape
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file

from llama_convert.cli.pictures import number
from tests.checkpoints import write_meta
from tests.cli.commands import Result, change_json
from tests.cli.conftest import check_refusal
from tests.cli.pages import Page, stands_alone
from tests.verify.quantised_files import quantisable_model, write_quantised

Run = Callable[..., Result]


@pytest.fixture
def page(run: Run, tmp_path: Path) -> Callable[..., tuple[Page, dict[str, Any], int]]:
    """(arguments of verify) -> the page, the JSON of the same run, the exit status."""

    def made(*arguments: object) -> tuple[Page, dict[str, Any], int]:
        file = tmp_path / "pages" / "report.html"
        result = run("verify", *arguments, "--json", "--report", file)
        assert [path.name for path in file.parent.iterdir()] == ["report.html"], result.err
        found = Page(file.read_text(encoding="utf-8"))
        shutil.rmtree(file.parent)
        return found, result.json, result.status

    return made


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Path:
    """A converted folder that the test may change."""
    return Path(shutil.copytree(converted, tmp_path / "copy"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        change(weights)
        save_file(weights, path, {"format": "pt"})


def holds_all(page: Page, found: dict[str, Any]) -> None:
    """Each level of the JSON is on the page with its result, its figures and its measures; a cell for each weight."""
    above = f"{Path(found['a']).parent}/"
    for level in found["levels"]:
        (row,) = (row for row in page.rows() if row.startswith(f"{level['name']}{level['verdict']}"))
        assert all(words.replace(above, "") in row for words in (level["figures"], *level["findings"][:12]))
        assert all(number(value) in page.words["dd"] for value in level["measures"].values())
    details = {level["name"]: level["details"] for level in found["levels"]}
    cells = [kind for kind in page.classes("rect") if not kind.endswith("-zone")]
    assert sorted(cells) == sorted(one["outcome"] for one in details.get("tensors", ()))
    dots = [label for label in page.words.get("title", ()) if ": difference " in label and ", noise " in label]
    assert len(dots) == len(details.get("logits", ()))


def test_an_equal_model(page: Callable[..., Any], source: Callable[..., Path], converted: Path) -> None:
    found, said, status = page(source("3-2shards"), converted)
    assert (status, found.words["h1"]) == (0, ["huggingface (hf) is the same model as source (meta), bit for bit."])
    assert list(stands_alone(found)) == []
    holds_all(found, said)
    assert [level["verdict"] for level in said["levels"]] == ["passed"] * 5
    assert "They part nowhere." in found.source
    assert said["date"] in found.words["time"]
    assert {one["outcome"] for one in said["levels"][2]["details"]} == {"equal"}
    (logits,) = (level for level in said["levels"] if level["name"] == "logits")
    assert logits["details"][-1]["gate"] == logits["gate"]
    assert logits["details"][-1]["difference"] == logits["measures"]["difference"]
    assert [side["format"] for side in said["sides"]] == ["meta", "hf"]
    digests = [file["digest"] for side in said["sides"] for file in side["files"] if file["digest"]]
    assert len(digests) >= 4
    assert all(digest in found.source for digest in digests)


@pytest.mark.parametrize(
    "planted",
    [
        "<style>@import 'a.css'</style><body>",
        "<style>p { background: url(a.png) }</style><body>",
        "<body><script>alert(1)</script>",
        '<body><svg><image href="a.png"/></svg>',
        '<body><a href="a">a</a>',
        '<body><p onclick="a()">a</p>',
    ],
)
def test_what_does_not_stand_alone_is_seen(planted: str) -> None:
    assert list(stands_alone(Page(f"<html>{planted}</body></html>"))) != []


def test_a_different_model_says_so_in_its_first_sentence(
    page: Callable[..., Any], source: Callable[..., Path], copy: Path
) -> None:
    def exchange(weights: dict[str, torch.Tensor]) -> None:
        gate, up = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up"))
        if gate in weights and up in weights:
            weights[gate], weights[up] = weights[up].clone(), weights[gate].clone()

    (copy / "conversion.json").unlink()
    change_weights(copy, exchange)
    found, said, status = page(source("3-2shards"), copy)
    assert (status, found.words["h1"]) == (1, ["copy (hf) is NOT the same model as source (meta)."])
    holds_all(found, said)
    (cause,) = said["diagnosis"]
    assert cause["cause"] == "gate-and-up-swapped"
    assert all(words in found.words["li"][0] for words in cause.values())
    assert "They part in the feed-forward of layer 1." in found.source
    far = [str(one["name"]) for one in said["levels"][2]["details"] if one["outcome"] == "far"]
    assert far == ["gate projection", "up projection"]


def test_a_quantised_model_has_its_errors(page: Callable[..., Any], tmp_path: Path) -> None:
    a = write_meta(quantisable_model(), tmp_path / "meta")
    b = write_quantised(tmp_path / "small.gguf", GGMLQuantizationType.Q4_K)
    found, said, status = page(a, b, "--llama-version", "3")
    assert status == 0
    assert found.words["h1"] == ["small (gguf) is the same model as meta (meta), as near as its types allow."]
    holds_all(found, said)
    tensors = {level["name"]: level for level in said["levels"]}["tensors"]
    near = [one for one in tensors["details"] if one["outcome"] == "near"]
    assert len(near) == tensors["measures"]["by_error"] == 16
    worst = max(one["difference"] / one["gate"] for one in near)
    assert worst == pytest.approx(tensors["measures"]["worst_error"])
    worst_of = {one["name"]: max(other["difference"] for other in near if other["name"] == one["name"]) for one in near}
    assert {number(error) for error in worst_of.values()} <= set(found.words["td"])
    assert "gate: the most that rounding explains" not in found.source
    assert [one["gate"] for one in said["levels"][4]["details"]] == [None] * 6


def test_one_checkpoint_alone(page: Callable[..., Any], converted: Path) -> None:
    found, said, status = page(converted)
    assert (status, found.words["h1"]) == (0, ["huggingface (hf) is sound."])
    assert "Nothing was compared with another checkpoint" in found.source
    holds_all(found, said)
    assert len(said["sides"]) == 1


def test_what_was_not_checked_is_told(page: Callable[..., Any], source: Callable[..., Path], copy: Path) -> None:
    for name in ("tokenizer.json", "conversion.json"):
        (copy / name).unlink()
    a = source("3-2shards")
    (a / "tokenizer.model").unlink()
    found, said, status = page(a, copy, "--level", "tokenizer,structure")
    items = found.words["li"]
    assert status == 0
    (why,) = (level["figures"] for level in said["levels"] if level["verdict"] == "not checked")
    assert f"tokenizer: {why.removeprefix(f'{a.parent}/')}" in items
    assert {"files: not asked for", "tensors: not asked for", "logits: not asked for"} <= set(items)
    found, _, status = page(a, copy, "--level", "tokenizer")
    assert status == 1
    assert found.words["h1"] == ["Whether copy (hf) is the same model as source (meta) could not be checked."]


def test_numbers_that_are_none(page: Callable[..., Any], source: Callable[..., Path], copy: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        if "model.norm.weight" in weights:
            weights["model.norm.weight"][0] = torch.nan

    change_weights(copy, spoil)
    found, said, status = page(source("3-2shards"), copy, "--level", "tensors,logits")
    assert (status, "difference not finite" in found.source) == (1, True)
    places = [
        float(attributes[axis] or "") for tag, attributes in found.elements if tag == "circle" for axis in ("cx", "cy")
    ]
    assert places
    assert all(map(isfinite, places))
    assert said["levels"][1]["details"][-1]["difference"] is None


def test_hostile_names_are_words(page: Callable[..., Any], source: Callable[..., Path], copy: Path) -> None:
    hostile = "<script>alert('\"&amp;')<b>"
    change_json(copy / "config.json", rope_theta=10000.0, rope_parameters=...)
    b = copy.rename(copy.with_name(hostile))
    found, said, status = page(source("3-2shards"), b)
    assert status == 1
    assert found.words["h1"] == [f"{hostile} (hf) is NOT the same model as source (meta)."]
    assert hostile in said["diagnosis"][0]["sentence"]
    assert hostile in found.words["li"][0]
    assert list(stands_alone(found)) == []
    assert "<script" not in found.source
    assert escape(hostile) in found.source


def test_no_folder_above_the_sides_is_told(page: Callable[..., Any], source: Callable[..., Path], copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    found, said, _ = page(source("3-2shards"), copy, "--level", "files,structure,tokenizer")
    assert str(copy.parent) in json.dumps(said)
    assert str(copy.parent) not in unescape(found.source)
    assert "llama-convert verify source copy --level files,structure,tokenizer" in found.words["pre"][0]


def test_the_same_report_gives_the_same_page(page: Callable[..., Any], source: Callable[..., Path], copy: Path) -> None:
    def doubled(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: weight * 2 for name, weight in weights.items()})

    sides = source("3-2shards"), copy, "--level", "structure,tensors,logits"
    first, second = (re.sub("<time>[^<]*</time>", "", page(*sides)[0].source) for _ in range(2))
    assert first == second
    change_weights(copy, doubled)
    assert re.sub("<time>[^<]*</time>", "", page(*sides)[0].source) != first


def test_refused_before_anything_is_read(run: Run, tmp_path: Path) -> None:
    taken, nothing = tmp_path / "taken.html", tmp_path / "no checkpoint"
    taken.write_text("mine")
    for file, words in (
        (taken, "taken.html: exists"),
        (tmp_path, "is a folder, wanted a file"),
        (taken / "below" / "report.html", "taken.html: exists and is no folder"),
    ):
        result = run("verify", nothing, "--report", file)
        check_refusal(result, 2)
        assert words in result.err
    assert taken.read_text() == "mine"


def test_no_page_where_there_is_no_report(run: Run, copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    check_refusal(run("verify", copy, "--certificate", "--report", file), 2)
    (copy / "config.json").write_text("{")
    check_refusal(run("verify", copy, "--report", file), 3)
    assert not file.exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1590912, "1,590,912"),
        (110650.4, "110,650"),
        (0.0123456, "0.0123"),
        (0.0, "0"),
        (float("nan"), "not finite"),
        (None, "not measured"),
        ("float32", "float32"),
    ],
)
def test_numbers_as_people_read_them(value: object, words: str) -> None:
    assert number(value) == words


def test_small_numbers_have_a_power_of_ten() -> None:
    assert number(4.12e-06) == "4.1 \N{MULTIPLICATION SIGN} 10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT SIX}"
