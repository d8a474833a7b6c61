"""mlx-lm on a Hugging Face or MLX folder, in float32 on the processor; the ids come from the folder's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm import load
from question import answer


def judge(path: Path, question: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    mx.set_default_device(mx.cpu)
    model, tokenizer = load(str(path))
    model.set_dtype(mx.float32)
    scores = model(mx.array([question["tokens"]]))[0]
    return np.array(scores), {"ids": [tokenizer.encode(text) for text in question["texts"]]}


if __name__ == "__main__":
    answer(judge)
