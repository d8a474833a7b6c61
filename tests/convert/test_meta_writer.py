"""Meta's format written, judged by torch.load, Meta's own Transformer, zipfile and md5sum."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.architecture import Role, Rotary
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.formats import meta_shards, open_checkpoint
from llama_convert.convert.formats.meta import META
from llama_convert.convert.plan import make_plan
from llama_convert.verify import verify
from tests.checkpoints import CASES, VERSIONS, Case, MetaModel, random_model, with_kv_copies, write_meta
from tests.meta_reference import GATE, merge_shards, meta_logits, random_tokens, relative_difference

BY_NAME = {case.name: case for case in CASES}
POSITIONS = 128
VISIBLE = 50
Options = dict[str, Any]


def convert(source: Path, target: Path, to: str = "meta", version: str | None = None, **request: Any) -> Path:
    plan = plan_conversion(source, to=to, request=Request(**request), llama_version=version)
    return convert_checkpoint(plan, target).folder


def fits(case: Case, shards: int) -> bool:
    return case.heads % shards == 0 and (shards <= 4 or case.kv_heads is not None)


def copies(model: MetaModel, shards: int) -> int:
    return max(shards // model.kv_heads, 1)


def logits(model: MetaModel) -> Tensor:
    return meta_logits(model, random_tokens(model.vocab, POSITIONS))


def files(folder: Path) -> dict[str, bytes]:
    """All but the certificate, which has the date and the source's name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "conversion.json"}


WRITTEN = [(case, shards) for case, shards in product(CASES, (1, 2, 4, 8, 16)) if fits(case, shards)]


@pytest.mark.parametrize(("case", "shards"), WRITTEN, ids=str)
def test_every_weight_is_whole_again(case: Case, shards: int, meta_checkpoint, tmp_path: Path) -> None:
    """All versions, from 1 to 16 shards to 1 to 16: torch loads the shards, and joined they are the model."""
    folder = convert(meta_checkpoint(case), tmp_path / "out", version=case.version, shards=shards)
    model = case.model()
    expected, found = with_kv_copies(model, copies(model, shards)), merge_shards(folder)
    assert len(list(folder.glob("consolidated.*.pth"))) == shards
    assert found.weights.keys() == expected.weights.keys()
    assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())
    for path in folder.glob("*.pth"):
        assert zipfile.ZipFile(path).testzip() is None
    subprocess.run(["md5sum", "--check", "--strict", "--quiet", "checklist.chk"], cwd=folder, check=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_shard_has_what_metas_code_of_the_time_gives_it(version: str, tmp_path: Path) -> None:
    """Joining goes by the shapes, so only this sees on which axis the embedding is cut: columns up to Llama 2."""
    model = random_model(version)
    theirs = write_meta(model, tmp_path / "theirs", shards=2, tokenizer=model.tokenizer)
    whole = write_meta(model, tmp_path / "whole", tokenizer=model.tokenizer)
    ours = convert(whole, tmp_path / "ours", version=version, shards=2)
    for name in ("consolidated.00.pth", "consolidated.01.pth"):
        wanted, found = (torch.load(folder / name, weights_only=True) for folder in (theirs, ours))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_the_cases_cover_all_shapes_of_shards() -> None:
    assert {shards for _, shards in WRITTEN} == {1, 2, 4, 8, 16}
    assert len(WRITTEN) > 3 * len(CASES) - 5


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("version", ["1", "2", "code", "3", "3.1", "3.2", "3.3", "guard-1", "guard-2", "guard-3"])
def test_metas_own_model_runs_it(version: str, shards: int, meta_checkpoint, tmp_path: Path) -> None:
    """From Hugging Face's folder, with the params.json written: the very same logits as the source's."""
    case = BY_NAME[version]
    hf = convert(meta_checkpoint(case), tmp_path / "hf", "hf", version)
    found = merge_shards(convert(hf, tmp_path / "out", shards=shards), version=version)
    assert torch.equal(logits(found), logits(case.model()))


def test_copied_kv_heads_are_the_same_function(meta_checkpoint, tmp_path: Path) -> None:
    """More shards than kv heads: Meta's model on the copies, within the noise of another order of sums."""
    case = BY_NAME["3.1-16shards-kv-twice"]
    hf = convert(meta_checkpoint(case), tmp_path / "hf", "hf", "3.1")
    found = merge_shards(convert(hf, tmp_path / "out", shards=32), version="3.1")
    assert found.params["n_kv_heads"] == 32
    assert relative_difference(logits(case.model()), logits(found)) <= GATE
    assert open_checkpoint(tmp_path / "out").config.kv_heads == 8


def test_copies_in_another_order_would_be_seen(meta_checkpoint, tmp_path: Path) -> None:
    """Negative control: heads 0..7, 0..7 instead of 0, 0, 1, 1, ..."""
    case = BY_NAME["3.1-16shards-kv-twice"]
    found = merge_shards(convert(meta_checkpoint(case), tmp_path / "out", shards=16), version="3.1")
    key = found.weights["layers.0.attention.wk.weight"]
    found.weights["layers.0.attention.wk.weight"] = key.unflatten(0, (8, 2, -1)).transpose(0, 1).flatten(0, 2)
    assert relative_difference(logits(case.model()), logits(found)) > VISIBLE * GATE


def test_rows_in_the_other_rotary_order_would_be_seen(meta_checkpoint, tmp_path: Path) -> None:
    """Negative control: Meta's format, told that it has Hugging Face's order."""
    case = BY_NAME["3.1"]
    source = open_checkpoint(meta_checkpoint(case), "3.1")
    wrong = make_plan(source, replace(META, rotary=Rotary.HALVES), Request(shards=2))
    found = merge_shards(convert_checkpoint(wrong, tmp_path / "out").folder, version="3.1")
    assert relative_difference(logits(case.model()), logits(found)) > VISIBLE * GATE


@pytest.mark.parametrize(("role", "axis"), [(Role.ATTENTION_OUT, 0), (Role.DOWN, 0), (Role.GATE, 1), (Role.HEAD, 1)])
def test_a_wrong_axis_would_be_seen(
    role: Role, axis: int, meta_checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Negative control: shards cut in another way than Meta's layers are no checkpoint."""
    with monkeypatch.context() as patch:
        patch.setitem(meta_shards.AXES, role, axis)
        convert(meta_checkpoint(BY_NAME["3"]), tmp_path / "out", shards=2)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "out")


@pytest.mark.parametrize("version", ["2", "3.2"])
def test_dtype(version: str, meta_checkpoint, tmp_path: Path) -> None:
    """Cast as torch does, every part by itself."""
    model = BY_NAME[version].model()
    found = merge_shards(
        convert(meta_checkpoint(BY_NAME[version]), tmp_path / "out", version=version, shards=4, dtype=DType.FLOAT16)
    )
    assert all(torch.equal(found.weights[name], weight.half()) for name, weight in model.weights.items())


# ---- laws of dealing again ----

RESHARDED = {
    "2": {"heads": 8, "dim": 64},
    "3": {"heads": 16, "dim": 128, "kv_heads": 4},
    "3.2": {"heads": 8, "dim": 64, "kv_heads": 2},
}


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory):
    """(version, shards...) -> a checkpoint of one shard, converted to each of these numbers in turn."""
    root = tmp_path_factory.mktemp("generations")

    def made(version: str, *numbers: int) -> Path:
        folder = root / "-".join([version, *map(str, numbers)])
        if folder.exists():
            return folder
        if numbers:
            return convert(made(version, *numbers[:-1]), folder, version=version, shards=numbers[-1])
        model = random_model(version, **RESHARDED[version])
        return write_meta(model, folder, tokenizer=model.tokenizer)

    return made


@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(version=st.sampled_from(list(RESHARDED)), way=st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=3))
def test_the_way_to_the_shards_leaves_no_trace(generation, version: str, way: list[int]) -> None:
    """However often and into however many shards a model was dealt: the files of the last deal are the same."""
    assert files(generation(version, *way)) == files(generation(version, way[-1]))


@pytest.mark.parametrize(
    "name", ["2-grouped-8shards", "3.3-8shards", "3.1-16shards-kv-twice", "3.2-untied", "1-4shards"]
)
def test_by_way_of_hugging_face(name: str, meta_checkpoint, tmp_path: Path) -> None:
    """meta -> hf -> meta -> hf -> meta: the same folders, byte for byte; without Meta's own files on the way."""
    case = BY_NAME[name]
    first = convert(meta_checkpoint(case), tmp_path / "hf1", "hf", case.version)
    shutil.rmtree(first / "original")
    written = convert(first, tmp_path / "meta1", shards=case.shards)
    again = convert(written, tmp_path / "hf2", "hf")
    assert files(convert(again, tmp_path / "meta2", shards=case.shards)) == files(written)
    for path in first.iterdir():
        if path.suffix in (".safetensors", ".json") and path.name != "conversion.json":
            assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_whole_shards_are_plain_copies(meta_checkpoint) -> None:
    """8 to 1 to 8: what lies in order in the source is never computed, 16 with copied kv heads to 16 neither."""
    for name, shards in (("3.3-8shards", 8), ("3.3-8shards", 4), ("3.1-16shards-kv-twice", 16)):
        plan = plan_conversion(meta_checkpoint(BY_NAME[name]), to="meta", request=Request(shards=shards))
        done = set(plan.work())
        assert done <= ({"copied"} if shards > 4 else {"copied", "joined by rows", "joined by columns"})


@pytest.mark.parametrize(("name", "shards"), [("3.1-4shards", 2), ("2-2shards", 4), ("3.1-16shards-kv-twice", 16)])
def test_verify_finds_it_the_same(name: str, shards: int, meta_checkpoint, tmp_path: Path) -> None:
    source = meta_checkpoint(BY_NAME[name])
    out = convert(source, tmp_path / "out", shards=shards)
    assert verify(source, out).ok
    hf = convert(out, tmp_path / "hf", "hf")
    assert verify(hf, out).ok
    assert verify(out, hf).ok


def test_the_checklist_sees_a_flipped_byte(meta_checkpoint, tmp_path: Path) -> None:
    """Also in the padding of a shard, which no CRC-32 covers."""
    folder = convert(meta_checkpoint(BY_NAME["3"]), tmp_path / "out", shards=2)
    for name, before, after in (("params.json", b"\n", b" "), ("consolidated.01.pth", b"ZZZ", b"ZYZ")):
        (folder / name).write_bytes((folder / name).read_bytes().replace(before, after, 1))
    assert zipfile.ZipFile(folder / "consolidated.01.pth").testzip() is None
    with pytest.raises(CheckpointError) as error:
        convert(folder, tmp_path / "again", "hf")
    assert [problem.split()[0] for problem in error.value.problems] == ["consolidated.01.pth", "params.json"]


def test_the_certificate_has_every_part(meta_checkpoint, tmp_path: Path) -> None:
    folder = convert(meta_checkpoint(BY_NAME["3"]), tmp_path / "out", shards=2)
    tensors = json.loads((folder / "conversion.json").read_text())["tensors"]
    assert len(tensors) == 2 * 21
    assert tensors["consolidated.01.pth: norm.weight"]["shape"] == [192]
