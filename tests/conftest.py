"""Checkpoints that many tests read, written once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.checkpoints import Case

torch.set_num_threads(1)  # the models are so small that waiting for a second thread takes most of the time


@pytest.fixture(scope="session")
def meta_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """case -> its folder, as Meta would ship it. Shared by all tests: read only."""
    root = tmp_path_factory.mktemp("meta")

    def folder(case: Case) -> Path:
        path = root / case.name
        return path if path.exists() else case.write(path)

    return folder
