"""Put a question to a judge in its client's environment, and measure how far its answer lies from ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.clients.environments import CLIENTS, JUDGES
from tests.meta_reference import relative_difference


@dataclass(frozen=True, slots=True)
class Answer:
    """scores: logits or log-probabilities, (positions, vocabulary), NaN where the client told none."""

    scores: Tensor
    facts: dict[str, Any]


def ask(client: str, judge: str, path: Path, question: dict[str, Any]) -> Answer:
    """RuntimeError with the judge's last words where it fails."""
    with tempfile.TemporaryDirectory() as name:
        asked, answered = Path(name) / "question.json", Path(name) / "answer.npz"
        asked.write_text(json.dumps(question))
        command = [CLIENTS[client].python, JUDGES / f"{judge}.py", path, asked, answered]
        done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise RuntimeError(f"{judge}: {words[-1]}")
        found = np.load(answered)
        return Answer(torch.from_numpy(found["scores"]), json.loads(found["facts"].item()))


def verified(client: str, package: str, path: Path, library: str) -> dict[str, Any]:
    """The level that our own `verify PATH --against LIBRARY` prints, with the client's package and nothing else of it.

    RuntimeError with the command's last words where it does not get so far.
    """
    installed = next((CLIENTS[client].python.parents[1] / "lib").glob("python*")) / "site-packages"
    with tempfile.TemporaryDirectory() as name:
        for found in installed.glob(f"{package}*"):
            (Path(name) / found.name).symlink_to(found)
        command = [Path(sys.executable).with_name("llama-convert"), "verify", path, "--against", library, "--json"]
        environment = os.environ | {"PYTHONPATH": name}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    levels = json.loads(done.stdout).get("levels") if done.stdout else None
    if not levels:
        raise RuntimeError("; ".join(done.stderr.strip().splitlines()[-2:]) or f"exit status {done.returncode}")
    found = levels[-1]
    assert isinstance(found, dict)
    return found


def distance(reference: Tensor, scores: Tensor) -> float:
    """Largest difference in spreads of the reference: of logits, or of those log-probabilities that were told."""
    assert reference.shape == scores.shape, f"{tuple(reference.shape)} against {tuple(scores.shape)}"
    told = ~scores.isnan()
    if told.all():
        return relative_difference(reference, scores)
    # A client that told next to nothing has not judged anything.
    assert told.sum(1).min() >= 1000, f"only {told.sum(1).min()} log-probabilities at one position"
    expected = reference.double().log_softmax(1)
    return ((expected - scores.double())[told].abs().max() / reference.double().std()).item()
