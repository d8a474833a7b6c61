"""tinygrad's own reader of GGUF and its Llama: unpacks every quantised type to float32 and computes in that.

It ignores the scaling of the rotary frequencies: hold it against a reference without.
"""

from __future__ import annotations

import os

os.environ |= {"HALF": "0", "DEV": "CPU:X86"}  # read at import; HALF casts every weight to float16

from pathlib import Path
from typing import Any

import numpy as np
from question import answer
from tinygrad import Tensor
from tinygrad.llm.model import Transformer


def judge(path: Path, question: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    tokens = question["tokens"]
    model, _ = Transformer.from_gguf(path, max_context=len(tokens))
    hidden = model.token_embd(Tensor([tokens])).float()
    for block in model.blk:
        hidden = block(hidden, 0)
    return model.output(model.output_norm(hidden))[0].numpy(), {}


if __name__ == "__main__":
    answer(judge)
