"""Real commands against the fake Hub: a user with a home of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cli.commands import Result
from tests.hub.fake_hub import FakeHub

COMMAND = Path(sys.executable).with_name("llama-convert")


@dataclass(frozen=True)
class User:
    """Someone at a machine that knows the Hub. home: the working folder, too; nothing is there at first."""

    hub: FakeHub
    home: Path

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "huggingface" / "hub"

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """The command, running. environment: variables beside the Hub's, such as HF_TOKEN."""
        known = {"PATH": os.environ["PATH"], "HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=known | self.hub.environment | environment,
        )

    def runs(self, *arguments: object, **environment: str) -> Result:
        """The finished command."""
        with self.start(*arguments, **environment) as running:
            out, err = running.communicate(timeout=120)
        return Result(running.returncode, out, err)

    def written(self) -> Iterator[bytes]:
        """Names and contents of every file below the home."""
        for path in self.home.rglob("*"):
            yield str(path).encode()
            if path.is_file():
                yield path.read_bytes()
