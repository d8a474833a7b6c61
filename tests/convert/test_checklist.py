"""checklist.chk, as md5sum, sha256sum and Meta write it."""

from __future__ import annotations

import hashlib

import pytest

from llama_convert.convert.checklist import check_listed, digest, mismatches, read_checklist
from llama_convert.convert.errors import CheckpointError

MD5, SHA256 = "0123456789abcdef" * 2, "0123456789abcdef" * 4


@pytest.fixture
def checklist(tmp_path):
    """text -> the folder whose checklist.chk it is."""

    def write(text: str):
        (tmp_path / "checklist.chk").write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (f"{MD5}  params.json", {"params.json": MD5}),
        (f"{SHA256}  params.json", {"params.json": SHA256}),
        (f"{MD5.upper()}  a", {"a": MD5}),
        (f"{MD5} *consolidated.00.pth", {"consolidated.00.pth": MD5}),
        (f"{MD5}  ./tokenizer.model", {"tokenizer.model": MD5}),
        (f"{MD5} *./tokenizer.model", {"tokenizer.model": MD5}),
        (f"{MD5}\ttabbed", {"tabbed": MD5}),
        (f"  {MD5}  a name with spaces  \r", {"a name with spaces": MD5}),
        (f"# a comment\n\n{MD5}  a\n# {MD5}  b", {"a": MD5}),
        (f"{MD5}  a\n{SHA256}  b", {"a": MD5, "b": SHA256}),
        ("", {}),
    ],
)
def test_lines_are_read(checklist, line, wanted):
    assert read_checklist(checklist(line)) == wanted


@pytest.mark.parametrize("line", [MD5, "params.json", f"{MD5[:-1]}  a", f"{MD5}0  a", f"{'g' * 32}  a", "<html>"])
def test_what_is_no_line_is_named(checklist, line):
    with pytest.raises(CheckpointError) as caught:
        read_checklist(checklist(f"{MD5}  a\n{line}\n"))
    assert caught.value.problems == (line,)


def test_without_a_checklist_nothing_is_listed(tmp_path):
    assert read_checklist(tmp_path) == {}
    check_listed(tmp_path)
    assert list(mismatches(tmp_path, {"a"})) == []


def test_listed_files_that_are_missing_are_named(checklist):
    folder = checklist(f"{MD5}  a\n{MD5}  b\n{MD5}  c\n{MD5}  tokenizer.model\n")
    (folder / "b").write_text("")
    with pytest.raises(CheckpointError) as caught:
        check_listed(folder)
    assert caught.value.problems == ("a", "c")


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 3])
def test_digests_are_hashlibs(tmp_path, algorithm, size):
    (tmp_path / "a").write_bytes(data := bytes(range(251)) * (size // 251) + bytes(size % 251))
    assert digest(tmp_path / "a", algorithm) == hashlib.new(algorithm, data).hexdigest()


def test_mismatches_say_what_the_file_is(checklist):
    one, two = hashlib.md5(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest()
    folder = checklist(f"{one}  one\n{two}  two\n{MD5}  three\n")
    for name, data in {"one": b"1", "two": b"2", "three": b"1", "unlisted": b"x"}.items():
        (folder / name).write_bytes(data)
    names = {"one", "two", "three", "unlisted"}
    assert list(mismatches(folder, names)) == [f"three is one under another name; checklist.chk lists {MD5}"]
    (folder / "two").write_bytes(b"3")
    damaged = hashlib.sha256(b"3").hexdigest()
    assert list(mismatches(folder, names))[1:] == [f"two has {damaged}; checklist.chk lists {two}"]
    assert list(mismatches(folder, {"one"})) == []
