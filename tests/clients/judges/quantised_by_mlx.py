"""mlx-lm quantises our Hugging Face folder to 4 bits and computes with the result, which it leaves behind.

The question adds "made": where to put the quantised folder, for llama-convert to read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm import convert, load
from question import answer


def judge(path: Path, question: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    mx.set_default_device(mx.cpu)
    convert(str(path), question["made"], quantize=True, q_bits=4, q_group_size=64, dtype="float32")
    model, _ = load(question["made"])
    return np.array(model(mx.array([question["tokens"]]))[0]), {}


if __name__ == "__main__":
    answer(judge)
