"""A pad token at full size, against `cp` of the same bytes: `python -m benchmarks.vocabulary`.

Three rows for each model: a new row beside a copy of the whole (`pad --token "<pad>"`), the same in place, where only
the files that hold embedding and head are written, and a reserved token in place, where no weight file is. The source
lies in several files, as released models do. In-place runs start from a folder of hard links, made anew, unmeasured.

Columns as in `benchmarks.convert`; the ratio is to `cp` followed by `sync`, for the command syncs what it wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.convert import COMMAND
from benchmarks.measure import Run, in_turn, median_ratio
from benchmarks.synthetic import MODELS, made

_FINETUNE_PAD = "<|finetune_right_pad_id|>"
_SECONDS, _RATIOS = f"{'cp':>7}{'cp+sync':>9}{'pad':>8}", f"{'/cp':>6}{'/cp+sync':>9}"
_HEAD = f"{'change':22}{'model':6}{'bytes':>9}  {_SECONDS}  {_RATIOS}{'peak RSS':>10}"


@dataclass(frozen=True, slots=True)
class Change:
    """One way to pad: the command's options, and whether it works on the folder itself."""

    options: tuple[str, ...]
    in_place: bool


CHANGES = {
    "new row, copy": Change(("--token", "<pad>", "--shard-size", "5GB"), in_place=False),
    "new row, in place": Change(("--token", "<pad>", "--in-place"), in_place=True),
    "reserved, in place": Change(("--reuse-reserved", "--in-place"), in_place=True),
}


def main() -> None:
    """Make the checkpoints, pad them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    arguments = parser.parse_args()
    print(_HEAD)
    for model in arguments.models:
        folder = source(model, arguments.folder)
        for name, change in CHANGES.items():
            print(row(name, change, model, folder, arguments.times), flush=True)


def source(model: str, folder: Path) -> Path:
    """The model as a Hugging Face folder of several files whose tokenizer is Llama 3's: none is there to pad."""
    meta = made(model, folder / f"meta-{model}")
    found = folder / f"hf-shards-{model}"
    if not found.exists():
        command = [COMMAND, "convert", meta, found, "--shard-size", "1GB" if model == "1B" else "5GB", "--quiet"]
        subprocess.run(command, check=True)
        _rename_pad(found)
    return found


def _rename_pad(folder: Path) -> None:
    """3.1's own pad token would be taken before any reserved one."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace(_FINETUNE_PAD, "<|reserved_special_token_999|>"), encoding="utf-8")
    json.loads((folder / "tokenizer.json").read_bytes())  # it still is one


def row(name: str, change: Change, model: str, source: Path, times: int) -> str:
    """One line of the table: medians of the seconds, of the ratios pair by pair, and the peak."""
    target = source.parent / "out"
    copy = f"cp -r --reflink=never {source} {target}-copy"
    paths = [str(target)] if change.in_place else [str(source), str(target)]
    commands = [
        ["sh", "-c", copy],
        ["sh", "-c", f"{copy} && find {target}-copy -type f -exec sync {{}} +"],
        [COMMAND, "pad", *paths, "--quiet", *change.options],
    ]
    runs = in_turn(commands, times, _before(source, target, change))
    _clear(target)
    walls = [[run.wall for run in of] for of in runs]
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    seconds = "".join(f"{statistics.median(wall):{width}.2f}" for wall, width in zip(walls, (7, 9, 8), strict=True))
    ratios = f"{median_ratio(walls[2], walls[0]):6.2f}{median_ratio(walls[2], walls[1]):9.2f}"
    return f"{name:22}{model:6}{size / 1e9:6.2f} GB  {seconds}  {ratios}{_peak(runs[2]) / 1e6:7.0f} MB"


def _peak(runs: list[Run]) -> int:
    return max(run.peak for run in runs)


def _before(source: Path, target: Path, change: Change) -> Callable[[], None]:
    return partial(_prepare, source, target, in_place=change.in_place)


def _prepare(source: Path, target: Path, *, in_place: bool) -> None:
    """Twice the memory that a run needs is touched and freed, as in `benchmarks.convert`; then links, if need be."""
    _clear(target)
    for number in range(2):
        subprocess.run(["cp", "-r", "--reflink=never", source, f"{target}-{number}"], check=True)
    _clear(target)
    if in_place:
        subprocess.run(["cp", "-rl", source, target], check=True)
    os.sync()


def _clear(target: Path) -> None:
    for name in (target.name, *(f"{target.name}-{what}" for what in ("copy", "0", "1"))):
        shutil.rmtree(target.with_name(name), ignore_errors=True)


if __name__ == "__main__":
    main()
