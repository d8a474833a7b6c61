"""A command as a whole process: wall time, CPU time, peak memory."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """One finished process. wall, cpu: seconds. peak: bytes of resident memory, page cache not counted."""

    wall: float
    cpu: float
    peak: int


def run(command: Sequence[str]) -> Run:
    """Run the command; its output is shown only where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{printed.decode()}")
    return Run(wall, usage.ru_utime + usage.ru_stime, _peak(usage))


def _peak(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * 1024  # Linux counts in KiB


def in_turn(commands: Sequence[Sequence[str]], times: int, before: Callable[[], None]) -> list[list[Run]]:
    """Run the commands A B A B ..., `times` each; `before` puts things back before every run."""
    runs: list[list[Run]] = [[] for _ in commands]
    for _ in range(times):
        for command, measured in zip(commands, runs, strict=True):
            before()
            measured.append(run(command))
    return runs


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """The median of the ratios pair by pair: a drift of the machine's speed cancels."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))
