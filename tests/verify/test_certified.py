"""A converted folder is held against its own certificate: each kind of damage is found and named, and nothing else."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from llama_convert.convert import Request, convert_checkpoint, plan_conversion
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import CheckpointError
from llama_convert.verify import Report, Verdict, check_certificate, read_certificate, record_verdict
from llama_convert.verify.report import judged
from tests.checkpoints import random_model, write_meta

# Formats with all that a file can have: shards, checksums of their own, padding, quantised blocks, several parts.
OUTPUTS = {
    "hf": Request(shard_size=1_000_000),
    "hf-cast": Request(dtype=DType.FLOAT16),
    "gguf": Request(quantize=DType.Q8_0),
    "meta": Request(shards=2),
    "llama2c": Request(format_version=1),
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in every format; read only."""
    root = tmp_path_factory.mktemp("certified")
    model = random_model("2", dtype=torch.float32, layers=1, tied=False)
    source = write_meta(model, root / "source", shards=2, tokenizer=model.tokenizer)
    for name, request in OUTPUTS.items():
        plan = plan_conversion(source, to=name.partition("-")[0], request=request, llama_version="2")
        convert_checkpoint(plan, root / name, check=name != "gguf")
    return {name: root / name for name in OUTPUTS}


@pytest.fixture
def folder(outputs: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """name -> a copy of the output under another name and in another place, for the test to change."""
    return lambda name: Path(shutil.copytree(outputs[name], tmp_path / "moved" / "renamed"))


def weight_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf", ".pth", ".bin"))


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def findings(folder: Path) -> tuple[str, ...]:
    result = check_certificate(folder)
    assert (result.verdict is Verdict.FAILED) is bool(result.findings)
    return result.findings


def certificate(folder: Path) -> dict:
    return json.loads((folder / "conversion.json").read_text())


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_was_written_passes_wherever_it_lies(name: str, folder) -> None:
    result = check_certificate(folder(name))
    assert (result.verdict, result.findings, result.warnings) == (Verdict.PASSED, (), ())
    assert result.measures["tensors"] > 0


@pytest.mark.parametrize("name", ["hf", "hf-cast"])
def test_checksums_are_those_of_the_tensors(name: str, outputs) -> None:
    """Copied, moved and cast ones; judged by the safetensors library."""
    told = {tensor: found["stored"]["crc32"] for tensor, found in certificate(outputs[name])["tensors"].items()}
    read = {}
    for path in weight_files(outputs[name]):
        read |= {tensor: zlib.crc32(value.view(torch.uint8).numpy()) for tensor, value in load_file(path).items()}
    assert told == {tensor: f"{value:08x}" for tensor, value in read.items()}


def test_checksums_of_quantised_tensors_are_told_too(outputs) -> None:
    """And where nothing of the source was checked; judged by the gguf library."""
    from gguf import GGUFReader

    (path,) = weight_files(outputs["gguf"])
    told = {name: found["stored"]["crc32"] for name, found in certificate(outputs["gguf"])["tensors"].items()}
    assert told == {tensor.name: f"{zlib.crc32(tensor.data):08x}" for tensor in GGUFReader(path).tensors}


@pytest.mark.parametrize("name", OUTPUTS)
def test_one_bit_anywhere_is_found(name: str, folder) -> None:
    """In the header, in a tensor, between tensors, at the end: each finding is about the file that has the bit."""
    copy, source = folder(name), random.Random(0)
    for path in weight_files(copy):
        size = path.stat().st_size
        for place in (0, 9, size - 1, *(source.randrange(size) for _ in range(12))):
            flip(path, place)
            found = findings(copy)
            assert found
            assert all(finding.startswith(path.name) for finding in found)
            flip(path, place)
    assert findings(copy) == ()


def test_the_tensor_is_named(folder) -> None:
    copy = folder("hf")
    path = weight_files(copy)[1]
    with safe_open(path, "pt") as file:
        names = set(file.keys())
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8:start])
    for name in sorted(names)[:4]:
        place = start + header[name]["data_offsets"][0]
        flip(path, place)
        first, second = findings(copy)
        assert f"{path.name}: {name} at offset {place:,} has CRC-32" in first
        assert f"conversion.json says {certificate(copy)['tensors'][name]['stored']['crc32']}" in first
        assert second.startswith(f"{path.name} has SHA-256")
        flip(path, place)


def test_a_part_of_a_tensor_is_named_with_its_file(folder) -> None:
    copy = folder("meta")
    stored = certificate(copy)["tensors"]["consolidated.01.pth: layers.0.attention.wq.weight"]["stored"]
    assert stored["file"] == "consolidated.01.pth"
    flip(copy / "consolidated.01.pth", stored["offset"])
    assert "consolidated.01.pth: layers.0.attention.wq.weight at offset" in findings(copy)[0]


def test_a_header_is_told_from_a_tensor(folder) -> None:
    copy = folder("gguf")
    (path,) = weight_files(copy)
    flip(path, 100)
    assert f"{path.name}: all but its tensors (header, padding) has SHA-256" in findings(copy)[0]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "original/tokenizer.model"])
def test_a_small_file_is_named(name: str, folder) -> None:
    copy = folder("hf")
    flip(copy / name, 20)
    (finding,) = findings(copy)
    assert finding.startswith(f"{Path(name).name} has SHA-256")


def test_a_large_file_needs_no_digest_of_all_of_it(folder) -> None:
    """Negative control for the larger ones: without it the tensors and the rest find the bit alone."""
    copy = folder("hf-cast")
    values = certificate(copy)
    del values["target"]["files"]["model.safetensors"]["sha256"]
    (copy / "conversion.json").write_text(json.dumps(values))
    assert findings(copy) == ()
    for place in (2, 9, -1):
        path = copy / "model.safetensors"
        flip(path, place % path.stat().st_size)
        assert len(findings(copy)) == 1
        flip(path, place % path.stat().st_size)


def test_missing_added_shortened_and_exchanged_files(folder) -> None:
    copy = folder("hf")
    first, second, *_ = weight_files(copy)
    (copy / "README.md").write_text("A model.")
    (copy / ".gitattributes").write_text("")
    result = check_certificate(copy)
    assert (result.findings, result.warnings) == ((), ("not in conversion.json: README.md",))
    shutil.copyfile(first, copy / "pytorch_model.bin")
    (copy / "generation_config.json").unlink()
    size = second.stat().st_size
    with second.open("r+b") as file:
        file.truncate(size - 1)
    gone, short, added, *rest = findings(copy)
    assert gone.startswith("generation_config.json is missing")
    assert short.startswith(f"{second.name} has {size - 1:,} bytes, conversion.json says {size:,}")
    assert added.startswith("pytorch_model.bin may be taken for weights")
    assert len(rest) == 1
    assert "beyond the file's end" in rest[0]
    first.rename(copy / "x")
    second.rename(first)
    (copy / "x").rename(second)
    assert {finding.split()[0].rstrip(":") for finding in findings(copy)} >= {first.name, second.name}


# --- certificates that are none ------------------------------------------------------------------


def older(values: dict) -> None:
    for tensor in values["tensors"].values():
        del tensor["stored"]


def undigested(values: dict) -> None:
    for file in values["target"]["files"].values():
        file.pop("sha256", None)
        file.pop("sha256_without_tensors", None)


def outside(values: dict) -> None:
    values["target"]["files"]["../source/params.json"] = values["target"]["files"]["config.json"]


def strange(values: dict) -> None:
    values["tensors"] = [1]


def homeless(values: dict) -> None:
    for tensor in values["tensors"].values():
        tensor["stored"]["file"] = "nowhere"


def misplaced(values: dict) -> None:
    for tensor in values["tensors"].values():
        tensor["stored"]["offset"] = -1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (older, "of an older version"),
        (undigested, "of an older version"),
        (outside, "damaged.*not in the folder"),
        (strange, "damaged"),
        (homeless, "damaged.*nowhere"),
        (misplaced, "damaged.*no size"),
        (lambda values: values.pop("target"), "damaged"),
        (lambda values: values.update(verified={}), "damaged"),
    ],
)
def test_what_cannot_be_checked_is_refused(change, words: str, folder) -> None:
    copy = folder("hf")
    values = certificate(copy)
    change(values)
    (copy / "conversion.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=words):
        check_certificate(copy)


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"tool": {}}'])
def test_no_certificate_is_refused(content: str | None, folder) -> None:
    copy = folder("hf")
    (copy / "conversion.json").unlink()
    if content is not None:
        (copy / "conversion.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"conversion\.json"):
        check_certificate(copy)


# --- verdicts ------------------------------------------------------------------------------------


def report(folder: Path, *problems: str) -> Report:
    level = judged("tensors", "3 of 3", problems, measures={"compared": 3}, gate=0.5)
    return Report(a=folder.parent / "the-source", b=folder, levels=(level,))


def test_a_verdict_is_added_and_replaced(folder) -> None:
    copy = folder("hf")
    before = certificate(copy)
    assert read_certificate(copy).verified is None
    for problems, ok in ((("one differs",), False), ((), True)):
        record_verdict(copy, report(copy, *problems))
        found = certificate(copy)["verified"]
        assert (found["a"], found["ok"], found["tool"]) == ("the-source", ok, before["tool"])
        verdict = "passed" if ok else "failed"
        assert found["levels"] == [
            {"name": "tensors", "verdict": verdict, "figures": "3 of 3", "measures": {"compared": 3}, "gate": 0.5}
        ]
    assert {**certificate(copy), "verified": None} == {**before, "verified": None}
    assert str(copy.parent) not in (copy / "conversion.json").read_text()
    assert read_certificate(copy).verified == found
    assert findings(copy) == ()


def test_a_verdict_is_written_whole_or_not_at_all(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = folder("hf")
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        record_verdict(copy, report(copy))
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before


def test_a_verdict_needs_a_certificate(folder) -> None:
    copy = folder("hf")
    (copy / "conversion.json").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        record_verdict(copy, report(copy))
    assert not (copy / "conversion.json").exists()
