"""Conversions at full size, against `cp` of the same bytes: `python -m benchmarks.convert`.

The commands run in turn, on the same disk. llama-convert syncs what it wrote before it says that it is done, so
its peer is `cp` followed by `sync`; plain `cp`, which leaves that to the system, is printed as well. Before every
run the source is copied twice and the copies removed, unmeasured: on a virtual machine, memory that lay idle has gone
back to the host, and whoever touches it first waits for it.

The last columns: bytes of input for each second of CPU time, of all threads and children together, and the peak of
memory that is not page cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Run, in_turn, median_ratio
from benchmarks.synthetic import MODELS, made

COMMAND = str(Path(sys.executable).parent / "llama-convert")


@dataclass(frozen=True, slots=True)
class Pair:
    """One conversion: the format that is read, and the options that say what is written."""

    source: str
    options: tuple[str, ...]


PAIRS = {
    "meta-hf": Pair("meta", ("--to", "hf")),
    "meta-gguf": Pair("meta", ("--to", "gguf")),
    "hf-scratch": Pair("hf", ("--to", "scratch")),
    "hf-q8_0": Pair("hf", ("--to", "gguf", "--quantize", "q8_0")),
    "hf-q4_0": Pair("hf", ("--to", "gguf", "--quantize", "q4_0")),
}
_HEAD = (
    f"{'pair':12}{'model':6}{'bytes':>9}  {'cp':>7}{'cp+sync':>9}{'convert':>9}  {'/cp':>6}{'/cp+sync':>9}"
    f"  {'per CPU s':>10}{'peak RSS':>10}"
)


def main() -> None:
    """Make the checkpoints, convert them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    arguments = parser.parse_args()
    print(_HEAD)
    for model in arguments.models:
        for name in arguments.pairs:
            folder = source(PAIRS[name].source, model, arguments.folder)
            print(row(name, model, folder, arguments.folder / "out", arguments.times), flush=True)


def source(form: str, model: str, folder: Path) -> Path:
    """The model's folder in this format; Hugging Face's is converted from Meta's."""
    meta = made(model, folder / f"meta-{model}")
    source = folder / f"{form}-{model}"
    if not source.exists():
        subprocess.run([COMMAND, "convert", meta, source, "--to", form, "--quiet"], check=True)
    return source


def row(name: str, model: str, source: Path, target: Path, times: int) -> str:
    """One line of the table: medians of the seconds, of the ratios pair by pair, and the peak."""
    copy = f"mkdir {target} && cp -r --reflink=never {source}/* {target}"
    commands = [
        ["sh", "-c", copy],
        ["sh", "-c", f"{copy} && find {target} -type f -exec sync {{}} +"],
        [COMMAND, "convert", str(source), str(target), "--quiet", *PAIRS[name].options],
    ]
    runs = in_turn(commands, times, lambda: _warm(source, target))
    shutil.rmtree(target)
    walls = [[run.wall for run in of] for of in runs]
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    seconds = "".join(f"{statistics.median(wall):{width}.2f}" for wall, width in zip(walls, (7, 9, 9), strict=True))
    ratios = f"{median_ratio(walls[2], walls[0]):6.2f}{median_ratio(walls[2], walls[1]):9.2f}"
    speed = size / statistics.median(run.cpu for run in runs[2]) / 1e6
    costs = f"{speed:7.0f} MB{_peak(runs[2]) / 1e6:7.0f} MB"
    return f"{name:12}{model:6}{size / 1e9:6.2f} GB  {seconds}  {ratios}  {costs}"


def _peak(runs: list[Run]) -> int:
    return max(run.peak for run in runs)


def _warm(source: Path, target: Path) -> None:
    """Twice the memory that a run needs is touched and freed: source and output may both be in the page cache."""
    copies = [target, target.with_name("second")]
    for copy in copies:
        shutil.rmtree(copy, ignore_errors=True)
        subprocess.run(["cp", "-r", "--reflink=never", source, copy], check=True)
    for copy in copies:
        shutil.rmtree(copy)
    os.sync()


if __name__ == "__main__":
    main()
