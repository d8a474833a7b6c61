"""`checklist.chk`: the digests that Meta publishes beside its files, one `digest  name` a line."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from llama_convert.convert.containers.lookalikes import START, refuse_lookalike
from llama_convert.convert.errors import CheckpointError, counted

_LINE = re.compile(r"([0-9a-fA-F]{32}|[0-9a-fA-F]{64})[ \t]+\*?(?:\./)?(.+)")
_ALGORITHMS = {32: "md5", 64: "sha256"}
_CHUNK = 1 << 20
# hashlib lets go of the interpreter, so several files are really hashed side by side.
HASHERS = min(4, os.cpu_count() or 1)


def read_checklist(folder: Path) -> dict[str, str]:
    """Digest by file name, empty where the folder has no checklist; MD5 or SHA-256 by length."""
    path = folder / "checklist.chk"
    if not path.is_file():
        return {}
    data = path.read_bytes()
    refuse_lookalike(path, data[:START], "a list of digests")
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    matches = [(line, _LINE.fullmatch(line)) for line in lines if line and not line.startswith("#")]
    unreadable = [line for line, match in matches if match is None]
    if unreadable:
        raise CheckpointError(
            f"{path}: {counted(len(unreadable), 'line')} without a digest and a name",
            problems=unreadable[:10],
            advice="Fetch checklist.chk again, or remove it.",
        )
    return {match[2]: match[1].lower() for _, match in matches if match}


def check_listed(folder: Path) -> None:
    """CheckpointError naming every file that the checklist lists and the folder lacks, tokenizers excepted.

    The tokenizer is looked for elsewhere too, and its own checklist may be the one of the folder above.
    """
    listed = [name for name in read_checklist(folder) if name != "tokenizer.model"]
    missing = [name for name in listed if not (folder / name).exists()]
    if missing:
        raise CheckpointError(
            f"{folder}: checklist.chk lists {counted(len(missing), 'file')} not here",
            problems=missing,
            advice="Download the missing files into the same folder.",
        )


def digest(path: Path, algorithm: str) -> str:
    """The file's digest in hexadecimal. Cost: one reading of the file; MD5 runs at about 0.6 GB/s."""
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(memoryview(buffer)[:count])
    return hasher.hexdigest()


def mismatches(folder: Path, names: set[str]) -> Iterator[str]:
    """One sentence for every one of these files whose digest is not the listed one."""
    listed = read_checklist(folder)
    for name in sorted(names & set(listed)):
        found = digest(folder / name, _ALGORITHMS[len(listed[name])])
        if found == listed[name]:
            continue
        others = [other for other, value in listed.items() if value == found]
        what = f"is {others[0]} under another name" if others else f"has {found}"
        yield f"{name} {what}; checklist.chk lists {listed[name]}"


def write_checklist(target: Path) -> None:
    """Write the MD5 of every other file of the folder, sorted by name, as `md5sum` prints and checks them.

    Cost: one reading of all files, several at a time.
    """
    paths = sorted(path for path in target.parent.iterdir() if path.is_file() and path != target)
    with ThreadPoolExecutor(HASHERS, thread_name_prefix="digest") as pool:
        digests = list(pool.map(partial(digest, algorithm="md5"), paths))
    lines = (f"{value}  {path.name}\n" for value, path in zip(digests, paths, strict=True))
    target.write_text("".join(lines), encoding="utf-8")
