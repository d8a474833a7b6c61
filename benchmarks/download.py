"""A file fetched from a server on this machine, against `curl`: `python -m benchmarks.download`.

The fake Hub of the tests serves it, in a process of its own; its store sends with `sendfile`. The commands run in
turn, on the same disk. A fetch computes the file's SHA-256 and syncs what it wrote, so its peer is `curl` followed by
`sync` and `sha256sum`; plain `curl`, which promises neither, is what it is held against. The Hub's own client is
printed as well: it syncs nothing and computes no digest. Before every run the file is copied and the copy removed,
unmeasured (see `benchmarks.convert`).

Seconds are of whole processes; for the fetch, also without the start of Python and its modules. Columns as in
`benchmarks.convert`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import in_turn, median_ratio

_REPOSITORY, _NAME = "bench/model", "source.bin"
_PIECE = 1 << 24
_FETCH = """
import sys, time
from pathlib import Path
from llama_convert.hub.fetch import fetch
from llama_convert.hub.remote import RemoteFile
from llama_convert.hub.repository import look_up, parse_name
snapshot = look_up(parse_name(sys.argv[1]))
file = RemoteFile(snapshot, next(entry for entry in snapshot.entries if entry.path == sys.argv[2]))
start = time.perf_counter()
fetch(file, Path(sys.argv[3]), on_note=sys.exit)
with open(sys.argv[4], "a") as log:
    print(time.perf_counter() - start, file=log)
"""
_CLIENT = """
import sys
from huggingface_hub import hf_hub_download
hf_hub_download(sys.argv[1], sys.argv[2], local_dir=sys.argv[3])
"""


def main() -> None:
    """Make the file, fetch it in each way, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=2e9)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    arguments = parser.parse_args()
    source = _made(arguments.folder / _NAME, int(arguments.bytes))
    with _served(source) as address:
        _measured(source, address, arguments.folder / "out", arguments.times)


def _made(path: Path, size: int) -> Path:
    """A file of random bytes, which nothing on the way can shorten."""
    if not path.exists() or path.stat().st_size != size:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, size, _PIECE):
                file.write(os.urandom(min(_PIECE, size - start)))
    return path


@contextmanager
def _served(source: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.hub.fake_hub", str(source)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def _measured(source: Path, address: str, folder: Path, times: int) -> None:
    os.environ |= {"HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1,localhost"}
    target, log = folder / _NAME, folder.with_name("seconds")
    curl = f"curl -sSfL -o {target} {address}/{_REPOSITORY}/resolve/main/{_NAME}"
    log.unlink(missing_ok=True)
    commands = {
        "curl": ["sh", "-c", curl],
        "curl, sync": ["sh", "-c", f"{curl} && sync {target}"],
        "curl, sync, sha256sum": ["sh", "-c", f"{curl} && sync {target} && sha256sum {target}"],
        "huggingface_hub": [sys.executable, "-c", _CLIENT, _REPOSITORY, _NAME, str(folder)],
        "fetch": [sys.executable, "-c", _FETCH, _REPOSITORY, _NAME, str(target), str(log)],
    }
    runs = dict(zip(commands, in_turn(list(commands.values()), times, lambda: _cleared(source, folder)), strict=True))
    shutil.rmtree(folder)
    walls = {name: [run.wall for run in of] for name, of in runs.items()}
    walls["fetch alone"] = [float(line) for line in log.read_text(encoding="utf-8").split()]
    runs["fetch alone"] = runs["fetch"]
    print(f"{source.stat().st_size / 1e9:.2f} GB")
    print(f"{'command':24}{'seconds':>9}{'CPU s':>8}{'curl / it':>11}{'peak RSS':>11}")
    for name, wall in walls.items():
        cpu = statistics.median(run.cpu for run in runs[name])
        ratio = median_ratio(walls["curl"], wall)
        peak = max(run.peak for run in runs[name]) / 1e6
        print(f"{name:24}{statistics.median(wall):9.2f}{cpu:8.2f}{ratio:11.2f}{peak:8.0f} MB")


def _cleared(source: Path, folder: Path) -> None:
    """Nothing of the last run is left, and the memory for this one has been touched."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    subprocess.run(["cp", "--reflink=never", source, folder / "second"], check=True)
    (folder / "second").unlink()
    os.sync()
    time.sleep(0.1)


if __name__ == "__main__":
    main()
