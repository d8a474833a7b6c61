"""llama.cpp's own converter on our Hugging Face folder, and what it writes held against our GGUF of the model.

The question adds "gguf", our file, and "type", what to write (f32, bf16, q8_0). Compared byte for byte: every
tensor, and the metadata that decides how the model computes and how it reads text.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from question import answer

PROGRAM = Path(sys.prefix) / "llama.cpp" / "convert_hf_to_gguf.py"
# Names, licences, sampling defaults: each tool words these as it likes. The last two it writes where we leave
# llama.cpp's own default, which is the same.
FREE = ("GGUF.", "general.", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_sep_token")

DIVISORS = "rope_freqs.weight"


def judge(path: Path, question: dict[str, Any]) -> tuple[None, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "theirs.gguf"
        convert(path, question["type"], written)
        theirs, ours = GGUFReader(written), GGUFReader(question["gguf"])
        wrong = [*differences(contents(theirs), contents(ours)), *frequencies(divisors(theirs), divisors(ours))]
        return None, {"pre": theirs.fields["tokenizer.ggml.pre"].contents(), "differences": wrong}


def convert(path: Path, kind: str, written: Path) -> None:
    subprocess.run([sys.executable, PROGRAM, path, "--outtype", kind, "--outfile", written], check=True)


def contents(file: GGUFReader) -> dict[str, bytes]:
    """Each key and tensor with its bytes; those of a key hold its name and type, too."""
    keys = {key: b"".join(map(bytes, field.parts)) for key, field in file.fields.items() if not key.startswith(FREE)}
    tensors = {
        tensor.name: f"{tensor.tensor_type.name} {tensor.shape.tolist()} ".encode() + tensor.data.tobytes()
        for tensor in file.tensors
        if tensor.name != DIVISORS
    }
    return keys | tensors


def divisors(file: GGUFReader) -> np.ndarray:
    return next((tensor.data for tensor in file.tensors if tensor.name == DIVISORS), np.zeros(0))


def frequencies(theirs: np.ndarray, ours: np.ndarray) -> Iterator[str]:
    """Computed by each side, not copied from the checkpoint: the last bit is free."""
    if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=1e-6, atol=0):
        yield f"{DIVISORS} differs"


def differences(theirs: dict[str, bytes], ours: dict[str, bytes]) -> Iterator[str]:
    for name in sorted(theirs.keys() | ours.keys()):
        if name not in ours:
            yield f"{name} only theirs"
        elif name not in theirs:
            yield f"{name} only ours"
        elif theirs[name] != ours[name]:
            yield f"{name} differs"


if __name__ == "__main__":
    answer(judge)
