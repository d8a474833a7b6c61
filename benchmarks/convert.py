"""Meta to Hugging Face at full size, against `cp` of the same bytes: `python -m benchmarks.convert`.

The commands run in turn, on the same disk. llama-convert syncs what it wrote before it says that it is done, so
its peer is `cp` followed by `sync`; plain `cp`, which leaves that to the system, is printed as well. Before every
run the source is copied twice and the copies removed, unmeasured: on a virtual machine, memory that lay idle has gone
back to the host, and whoever touches it first waits for it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Run, in_turn, median_ratio
from benchmarks.synthetic import MODELS, made


def main() -> None:
    """Make the checkpoints, convert them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    arguments = parser.parse_args()
    print(f"{'model':6}{'bytes':>9}  {'cp':>7}{'cp+sync':>9}{'convert':>9}  {'/cp':>6}{'/cp+sync':>9}  {'peak RSS':>9}")
    for name in arguments.models:
        source = made(name, arguments.folder / f"meta-{name}")
        print(row(name, source, arguments.folder / "out", arguments.times), flush=True)


def row(name: str, source: Path, target: Path, times: int) -> str:
    """One model's line of the table: medians of the seconds, of the ratios pair by pair, and the peak."""
    copy = f"mkdir {target} && cp --reflink=never {source}/* {target}"
    commands = [
        ["sh", "-c", copy],
        ["sh", "-c", f"{copy} && sync {target}/*"],
        [str(Path(sys.executable).parent / "llama-convert"), "convert", str(source), str(target), "--quiet"],
    ]
    runs = in_turn(commands, times, lambda: _warm(source, target))
    shutil.rmtree(target)
    walls = [[run.wall for run in of] for of in runs]
    size = sum(path.stat().st_size for path in source.iterdir())
    seconds = "".join(f"{statistics.median(wall):{width}.2f}" for wall, width in zip(walls, (7, 9, 9), strict=True))
    ratios = f"{median_ratio(walls[2], walls[0]):6.2f}{median_ratio(walls[2], walls[1]):9.2f}"
    return f"{name:6}{size / 1e9:6.2f} GB  {seconds}  {ratios}  {_peak(runs[2]) / 1e6:6.0f} MB"


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
