"""Verifying a pair at full size, against loading both sides in transformers: `python -m benchmarks.verify`.

The peer does what people do by hand: it loads each side in float32, runs the same prompts and looks at the largest
difference of the logits. It reads Hugging Face's folder on both sides, for it cannot read Meta's. `verify` checks
tensors, tokenizer and files besides; its logits level is timed alone too. On a GPU both compute there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.convert import COMMAND, source
from benchmarks.measure import Run, in_turn, median_ratio
from benchmarks.synthetic import MODELS


def main() -> None:
    """Make the checkpoints, verify them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["1B"])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", action="store_true", help="without the peer, for models that do not fit into it")
    arguments = parser.parse_args()
    for model in arguments.models:
        a, b = (str(source(form, model, arguments.folder)) for form in ("meta", "hf"))
        verify = [COMMAND, "verify", a, b, "--device", arguments.device]
        commands = {
            "transformers, both sides": [sys.executable, "-m", "benchmarks.both_in_transformers", b, arguments.device],
            "verify, all levels": verify,
            "verify, logits alone": [*verify, "--level", "logits"],
        }
        if arguments.alone:
            del commands["transformers, both sides"]
        runs = in_turn(list(commands.values()), arguments.times, lambda: None)
        print(table(model, list(commands), runs), flush=True)


def table(model: str, names: list[str], runs: list[list[Run]]) -> str:
    """A line for each command: medians, ratios to the first one pair by pair, the largest peak of memory."""
    lines = [f"{model:28}{'wall':>9}{'CPU':>9}{'ratio':>8}{'peak RSS':>11}"]
    for name, found in zip(names, runs, strict=True):
        wall, cpu = (statistics.median(getattr(run, kind) for run in found) for kind in ("wall", "cpu"))
        ratio = median_ratio([run.wall for run in found], [run.wall for run in runs[0]])
        peak = max(run.peak for run in found) / 1e9
        lines.append(f"{name:28}{wall:7.1f} s{cpu:7.1f} s{ratio:8.2f}{peak:8.2f} GB")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
