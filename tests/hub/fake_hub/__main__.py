"""Serve local files as the repository `bench/model` until killed; the address is printed."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Event

from tests.hub.fake_hub.hub import FakeHub

REPOSITORY = "bench/model"


def main(arguments: list[str]) -> None:
    """python -m tests.hub.fake_hub FOLDER_OR_FILE..."""
    files: dict[str, bytes | Path | None] = {}
    for root in map(Path, arguments):
        inside = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        files |= {str(path.relative_to(root if root.is_dir() else root.parent)): path for path in inside}
    if not files:
        sys.exit("give folders or files to serve")
    with FakeHub() as hub:
        hub.add(REPOSITORY, files)
        print(hub.url, flush=True)
        Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
