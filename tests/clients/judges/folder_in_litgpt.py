"""litgpt on its own kind of folder: sizes from model_config.yaml, strict names, ids by its Tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from litgpt import GPT, Config, Tokenizer
from litgpt.utils import check_valid_checkpoint_dir
from question import answer


def judge(path: Path, question: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    check_valid_checkpoint_dir(path)
    model = GPT(Config.from_checkpoint(path))
    model.load_state_dict(torch.load(path / "lit_model.pth", weights_only=True), strict=True)  # into float32
    model.max_seq_length = len(question["tokens"])  # else it builds the tables of the whole context
    with torch.no_grad():
        scores = model(torch.tensor([question["tokens"]]))[0]
    tokenizer = Tokenizer(path)
    return scores.numpy(), {"ids": [tokenizer.encode(text).tolist() for text in question["texts"]]}


if __name__ == "__main__":
    answer(judge)
