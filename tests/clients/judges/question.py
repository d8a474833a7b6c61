"""How a judge is asked and answers: `judge.py MODEL QUESTION ANSWER`, each run in a client's own environment.

MODEL: the file or folder to read. QUESTION: JSON with "tokens", one prompt of ids, and "texts" to encode.
ANSWER: an .npz, written here: "scores", float32 (positions, vocabulary), logits or log-probabilities, NaN
where the client does not tell; "facts", JSON. Imports nothing of this project: the client alone must judge.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Scores = np.ndarray | None


def answer(judge: Callable[[Path, dict[str, Any]], tuple[Scores, dict[str, Any]]]) -> None:
    """Put the question of the command line to `judge`, which gets MODEL and QUESTION, and write what it returns."""
    model, question, found = map(Path, sys.argv[1:])
    scores, facts = judge(model, json.loads(question.read_text()))
    scores = np.zeros((0, 0)) if scores is None else scores
    np.savez(found, scores=np.asarray(scores, dtype=np.float32), facts=json.dumps(facts))
