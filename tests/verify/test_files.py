"""The files level: every checksum that came with a side is held, what is wrong is named, and nothing is pretended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_convert.convert import convert_checkpoint, open_checkpoint, plan_conversion
from llama_convert.convert import digests as digests_module
from llama_convert.convert.errors import CheckpointError
from llama_convert.verify import LevelResult, Verdict, verify
from llama_convert.verify.files import check_files
from tests.checkpoints import CASES, write_checklist
from tests.cli.commands import flip_byte

BY_NAME = {case.name: case for case in CASES}


def level(a: Path, b: Path | None = None) -> LevelResult:
    return check_files(open_checkpoint(a), b and open_checkpoint(b))


@pytest.fixture
def meta(meta_checkpoint, tmp_path: Path) -> Path:
    """Two shards and their checklist, for the test to change."""
    return Path(shutil.copytree(meta_checkpoint(BY_NAME["3-2shards"]), tmp_path / "meta"))


@pytest.fixture
def huggingface(make_pair) -> Path:
    """Made without the converter: no certificate, and safetensors has no checksums."""
    return make_pair(BY_NAME["3-2shards"])[1]


@pytest.fixture
def converted(meta: Path, tmp_path: Path) -> Path:
    convert_checkpoint(plan_conversion(meta), tmp_path / "converted")
    return tmp_path / "converted"


# --- .pth records and checklist.chk --------------------------------------------------------------


def records(folder: Path) -> int:
    """Of all shards; judged by zipfile."""
    return sum(len(zipfile.ZipFile(path).infolist()) for path in folder.glob("*.pth"))


def test_records_and_lists_are_counted(meta: Path) -> None:
    result = level(meta)
    assert result.verdict is Verdict.PASSED
    assert result.measures == {"records": records(meta), "checklist": 4, "hub": 0, "certificate": 0}
    assert result.figures == f"{records(meta)} CRC-32s of .pth records, 4 digests of checklist.chk"
    (meta / "checklist.chk").unlink()
    assert level(meta).figures == f"{records(meta)} CRC-32s of .pth records"


def test_each_byte_is_read_once(meta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though two digests want each shard."""
    counts: list[int] = []
    real = os.preadv

    def counted(*given: object) -> int:
        counts.append(real(*given))  # type: ignore[arg-type]
        return counts[-1]

    checkpoint = open_checkpoint(meta)
    monkeypatch.setattr(digests_module.os, "preadv", counted)
    assert check_files(checkpoint, None).verdict is Verdict.PASSED
    assert sum(counts) == sum(path.stat().st_size for path in meta.iterdir() if path.name != "checklist.chk")


def test_a_bit_in_a_tensor_is_named(meta: Path) -> None:
    (name,) = [name for name in torch.load(meta / "consolidated.01.pth") if name == "layers.0.attention.wk.weight"]
    record = list(torch.load(meta / "consolidated.01.pth")).index(name)
    flip_byte(meta / "consolidated.01.pth", f"data/{record}")
    by_record, by_list = level(meta).findings
    assert by_record.startswith(f"consolidated.01.pth: record consolidated.01/data/{record} at offset ")
    assert f"({name}) has CRC-32 " in by_record
    digest = hashlib.md5((meta / "consolidated.01.pth").read_bytes()).hexdigest()
    assert by_list.startswith(f"consolidated.01.pth has MD5 {digest}, checklist.chk says ")


def test_a_bit_in_a_record_without_tensors_is_named(meta: Path) -> None:
    (meta / "checklist.chk").unlink()
    path = meta / "consolidated.00.pth"
    with zipfile.ZipFile(path) as archive:
        (info,) = (info for info in archive.infolist() if info.filename.endswith("/.data/serialization_id"))
        content = archive.read(info)
    data = bytearray(path.read_bytes())
    data[data.rindex(content)] ^= 1
    path.write_bytes(data)
    (finding,) = level(meta).findings
    assert "record consolidated.00/.data/serialization_id at offset" in finding


@pytest.mark.parametrize("name", ["params.json", "tokenizer.model"])
def test_a_small_file_is_held_against_the_list(name: str, meta: Path) -> None:
    with (meta / name).open("ab") as file:
        file.write(b"\n")
    (finding,) = level(meta).findings
    assert finding.startswith(f"{name} has MD5 ")


def test_sha256_lists_count_too(meta: Path) -> None:
    names = ("params.json", "tokenizer.model")
    lines = [f"{hashlib.sha256((meta / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (meta / "checklist.chk").write_text("".join(lines))
    assert level(meta).measures["checklist"] == 2
    (meta / "checklist.chk").write_text(lines[0].replace("params.json", "tokenizer.model"))
    assert "has SHA-256" in level(meta).findings[0]


def test_a_listed_tokenizer_is_missing_or_in_the_folder_above(meta: Path) -> None:
    (meta / "tokenizer.model").rename(meta.parent / "tokenizer.model")
    assert level(meta).measures["checklist"] == 4
    (meta.parent / "tokenizer.model").unlink()
    assert level(meta).findings == ("tokenizer.model is missing, checklist.chk lists it",)


def test_an_unreadable_list_is_refused(meta: Path) -> None:
    (meta / "checklist.chk").write_text("<html>403</html>")
    with pytest.raises(CheckpointError, match=r"checklist\.chk"):
        level(meta)


def test_records_without_checksums_are_no_checksums(meta_checkpoint, tmp_path: Path) -> None:
    """The stream that torch wrote before 1.6."""
    folder = BY_NAME["3"].write(tmp_path / "legacy", legacy=True, checklist=False)
    assert level(folder).verdict is Verdict.NOT_CHECKED
    write_checklist(folder)
    assert level(folder).measures["checklist"] == 3


# --- sides ---------------------------------------------------------------------------------------


def test_nothing_to_hold_is_not_passed(huggingface: Path) -> None:
    result = level(huggingface)
    assert result.verdict is Verdict.NOT_CHECKED
    assert "no checksums in these files" in result.figures
    assert not verify(huggingface, levels=("files",)).ok


def test_one_side_with_checksums_passes_and_the_other_is_told(meta: Path, huggingface: Path) -> None:
    result = level(huggingface, meta)
    assert result.verdict is Verdict.PASSED
    assert result.figures.startswith("A: no checksums in these files; B: ")
    assert (result.measures["a_records"], result.measures["b_records"]) == (0, records(meta))


def test_the_side_is_named(meta: Path, converted: Path) -> None:
    assert level(meta, converted).findings == ()
    flip_byte(meta / "consolidated.00.pth", "data/0")
    found = level(converted, meta).findings
    assert found
    assert all(finding.startswith(f"{meta}: consolidated.00.pth") for finding in found)


# --- conversion.json -----------------------------------------------------------------------------


def test_a_certificate_is_held(converted: Path) -> None:
    result = level(converted)
    assert (result.verdict, result.findings) == (Verdict.PASSED, ())
    assert result.measures["certificate"] > 20
    with (converted / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    assert any("model.safetensors: model.norm.weight at offset" in finding for finding in level(converted).findings)


def test_a_certificate_that_cannot_be_held_is_told(converted: Path) -> None:
    values = json.loads((converted / "conversion.json").read_text())
    for tensor in values["tensors"].values():
        del tensor["stored"]
    (converted / "conversion.json").write_text(json.dumps(values))
    result = level(converted)
    assert result.verdict is Verdict.NOT_CHECKED
    (converted / "conversion.json").write_text("{")
    assert "conversion.json: unreadable" in level(converted).findings[0]


def test_of_a_single_file_only_its_own_checksums_count(meta: Path, tmp_path: Path) -> None:
    convert_checkpoint(plan_conversion(meta, to="gguf"), tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*.gguf")
    everything = level(tmp_path / "out").measures["certificate"]
    (tmp_path / "out" / "other.gguf").write_bytes(b"")
    (tmp_path / "out" / "checklist.chk").write_text(f"{'0' * 32}  other.gguf\n")
    result = level(path)
    assert (result.verdict, result.measures["certificate"]) == (Verdict.PASSED, everything)


# --- the Hub -------------------------------------------------------------------------------------


def etag(data: bytes, *, large: bool) -> str:
    return hashlib.sha256(data).hexdigest() if large else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.name == "tokenizer.json"


@pytest.fixture
def cached(huggingface: Path, tmp_path: Path) -> Callable[..., Path]:
    """The model in the layout of the Hub's cache; shared: blobs are links into a store, as from version 2.4 on."""

    def made(*, shared: bool = False) -> Path:
        root = tmp_path / "hub" / "models--llama--tiny"
        snapshot, store = root / "snapshots" / ("a" * 40), tmp_path / "hub" / "blobs" / "ab"
        for folder in (root / "blobs", snapshot, store):
            folder.mkdir(parents=True)
        for path in huggingface.iterdir():
            data = path.read_bytes()
            blob = root / "blobs" / etag(data, large=is_large(path))
            kept = store / f"xet-{path.name}" if shared and is_large(path) else blob
            kept.write_bytes(data)
            if kept is not blob:
                blob.symlink_to(os.path.relpath(kept, blob.parent))
            (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
        return snapshot

    return made


@pytest.mark.parametrize("shared", [False, True])
def test_the_cache_of_the_hub_is_held(shared: bool, cached, huggingface: Path) -> None:
    snapshot = cached(shared=shared)
    result = level(snapshot)
    count = len(list(huggingface.iterdir()))
    assert (result.verdict, result.measures["hub"]) == (Verdict.PASSED, count)
    assert result.figures == f"{count} digests of the Hub"
    for name, algorithm in (("model.safetensors", "SHA-256"), ("config.json", "git SHA-1")):
        path = (snapshot / name).resolve()
        data = path.read_bytes()
        changed = data[:-1] + bytes([data[-1] ^ 1]) if is_large(snapshot / name) else data.replace(b" ", b"\n", 1)
        path.write_bytes(changed)
        (finding,) = level(snapshot).findings
        assert finding.startswith(f"{name} has {algorithm} ")
        assert finding.endswith(f"the Hub says {(Path(os.readlink(snapshot / name))).name}")
        path.write_bytes(data)
    assert level(snapshot).findings == ()


def test_links_that_are_not_the_hubs_say_nothing(huggingface: Path, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    for path in huggingface.iterdir():
        (folder / path.name).symlink_to(path)
    assert level(folder).verdict is Verdict.NOT_CHECKED


def write_metadata(root: Path, name: str, second_line: str) -> None:
    path = root / ".cache" / "huggingface" / "download" / f"{name}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{'a' * 40}\n{second_line}\n1700000000.0\n")


def test_a_local_download_is_held(huggingface: Path) -> None:
    names = [path.name for path in huggingface.iterdir()]
    for path in list(huggingface.iterdir()):
        write_metadata(huggingface, path.name, etag(path.read_bytes(), large=is_large(path)))
    result = level(huggingface)
    assert (result.verdict, result.measures["hub"]) == (Verdict.PASSED, len(names))
    write_metadata(huggingface, "config.json", "0" * 40)
    (finding,) = level(huggingface).findings
    assert finding.startswith("config.json has git SHA-1 ")
    write_metadata(huggingface, "config.json", 'W/"not-a-digest"')
    assert level(huggingface).measures["hub"] == len(names) - 1


def test_a_download_may_hold_the_checkpoint_in_a_folder(meta: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(meta, tmp_path / "download" / "original"))
    (folder / "checklist.chk").unlink()
    for path in folder.iterdir():
        write_metadata(tmp_path / "download", f"original/{path.name}", etag(path.read_bytes(), large=True))
    assert level(folder).measures["hub"] == 4
    write_metadata(tmp_path / "download", "original/consolidated.01.pth", "0" * 64)
    assert level(folder).findings[0].startswith("consolidated.01.pth has SHA-256 ")


# --- the index -----------------------------------------------------------------------------------


@pytest.fixture
def sharded(meta: Path, tmp_path: Path) -> Path:
    """Several safetensors files with an index, and no certificate."""
    from llama_convert.convert import Request

    convert_checkpoint(plan_conversion(meta, request=Request(shard_size=1_000_000)), tmp_path / "sharded")
    (tmp_path / "sharded" / "conversion.json").unlink()
    return tmp_path / "sharded"


def test_an_index_agrees_with_its_files(sharded: Path) -> None:
    assert level(sharded).verdict is Verdict.NOT_CHECKED
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    places = index["weight_map"]
    one, other = sorted(set(places.values()))[:2]
    moved, lost = (next(name for name, file in places.items() if file == where) for where in (one, other))
    places |= {moved: other, "model.layers.0.self_attn.rotary_emb.inv_freq": one, "model.more.weight": one}
    del places[lost]
    path.write_text(json.dumps(index))
    assert set(level(sharded).findings) == {
        f"{path.name}: {moved} is in {one}, the index says in {other}",
        f"{path.name}: {lost} is in {other}, the index says in no file",
        f"{path.name}: model.more.weight is in no file, the index says in {one}",
    }


def test_a_name_twice_in_an_index_is_told(sharded: Path) -> None:
    path = sharded / "model.safetensors.index.json"
    text = path.read_text()
    line = next(line for line in text.splitlines() if "model.norm.weight" in line).rstrip(",")
    path.write_text(text.replace('"weight_map": {', f'"weight_map": {{ {line},'))
    assert level(sharded).findings == (f"{path.name}: model.norm.weight is given twice",)
