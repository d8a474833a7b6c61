"""Writing at full size, against transformers and the book's model: `python -m benchmarks.generate`.

Each run is a process of its own; the libraries take turns, so that a drift of the machine's speed cancels. Same
weights, same prompt, always the likeliest token.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.convert import COMMAND, source

PROMPT_TOKENS, NEW_TOKENS = 64, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One line of the table: who writes, from what, computing in which type, compiled by torch or not.

    peer: the line it is held against.
    """

    name: str
    library: str
    form: str
    dtype: str
    peer: str | None = None
    compiled: bool = False


SIDES = (
    Side(name="transformers bf16", library="transformers", form="hf", dtype="bfloat16"),
    Side(name="the book bf16", library="book", form="hf", dtype="bfloat16", peer="transformers bf16"),
    Side(name="ours bf16", library="ours", form="hf", dtype="bfloat16", peer="transformers bf16"),
    Side(
        name="the book compiled", library="book", form="hf", dtype="bfloat16", peer="transformers bf16", compiled=True
    ),
    Side(name="ours compiled", library="ours", form="hf", dtype="bfloat16", peer="transformers bf16", compiled=True),
    Side(name="ours q4_0", library="ours", form="gguf-q4_0", dtype="bfloat16", peer="ours bf16"),
    Side(name="ours q8_0", library="ours", form="gguf-q8_0", dtype="bfloat16", peer="ours bf16"),
    Side(name="transformers fp32", library="transformers", form="hf", dtype="float32"),
    Side(name="ours fp32", library="ours", form="hf", dtype="float32", peer="transformers fp32"),
)


def main() -> None:
    """Make the checkpoints, let everyone write, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="1B")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", default=[side.name for side in SIDES])
    arguments = parser.parse_args()
    sides = [side for side in SIDES if side.name in arguments.only]
    found: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for _ in range(arguments.times):
        for side in sides:
            path = _source(side.form, arguments.model, arguments.folder)
            found[side.name].append(_run(side, path, arguments.device))
    print(table(sides, found))


def _source(form: str, model: str, folder: Path) -> Path:
    kind, _, quantised = form.partition("-")
    if not quantised:
        return source(kind, model, folder)
    target = folder / f"{form}-{model}"
    if not target.exists():
        command = [COMMAND, "convert", source("hf", model, folder), target, "--to", kind, "--quiet"]
        subprocess.run([*command, "--quantize", quantised], check=True)
    return target


def _run(side: Side, path: Path, device: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.one_generation", side.library, str(path), side.dtype, device]
    command += ["compile"] if side.compiled else []
    # As the command does for itself, before it imports torch.
    own = {"THP_MEM_ALLOC_ENABLE": "1"} if side.library == "ours" else {}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | own)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def table(sides: list[Side], found: dict[str, list[dict[str, Any]]]) -> str:
    """Medians, and ratios to the peer run by run; equal: how many tokens are the peer's."""
    lines = [f"{'':20}{'to first':>10}{'ratio':>7}{'tokens/s':>10}{'ratio':>7}{'memory':>11}{'ratio':>7}{'equal':>7}"]
    for side in sides:
        runs, peers = found[side.name], found.get(side.peer or "", found[side.name])
        first, speed, memory = (_median(runs, key) for key in ("first", "per_second", "memory"))
        ratios = [_ratio(runs, peers, key) for key in ("first", "per_second", "memory")]
        lines.append(
            f"{side.name:20}{first:8.2f} s{ratios[0]:7.2f}{speed:10.2f}{ratios[1]:7.2f}"
            f"{memory / 1e9:8.2f} GB{ratios[2]:7.2f}{_equal(runs[0]['ids'], peers[0]['ids']):7}"
        )
    return "\n".join(lines)


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _ratio(runs: list[dict[str, Any]], peers: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] / peer[key] for run, peer in zip(runs, peers, strict=True))


def _equal(ids: list[int], others: list[int]) -> int:
    return next((number for number, (a, b) in enumerate(zip(ids, others, strict=True)) if a != b), len(ids))


if __name__ == "__main__":
    main()
