"""The book's classes on our scratch folder: strict load into each, and the cache filled in uneven steps.

Every class must give the same logits; the answer is that of the one which strays most from the plain one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llms_from_scratch.kv_cache import llama3 as cached
from llms_from_scratch.kv_cache.utils import KVCache
from llms_from_scratch.llama3 import Llama3Model, Llama3ModelFast, Llama3Tokenizer
from question import answer
from torch import Tensor, nn


def judge(path: Path, question: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    config = json.loads(next(path.glob("*config.json")).read_text())
    config["dtype"] = torch.float32
    weights = torch.load(next(path.glob("*.pth")), weights_only=True)
    tokens = torch.tensor([question["tokens"]])
    with torch.no_grad():
        scores = list(all_scores(config, weights, tokens))
    worst = max(scores, key=lambda other: float((other - scores[0]).abs().max()))
    tokenizer = next(iter(path.glob("tokenizer.model")), None)
    return worst[0].numpy(), ids(tokenizer, question["texts"]) if tokenizer else {}


def all_scores(config: dict[str, Any], weights: dict[str, Tensor], tokens: Tensor) -> Iterator[Tensor]:
    for kind in (Llama3Model, Llama3ModelFast, cached.Llama3Model, cached.Llama3ModelFast):
        yield loaded(kind, config, weights)(tokens)
    model, cache = loaded(cached.Llama3Model, config, weights), KVCache(config["n_layers"])
    model.reset_kv_cache()
    steps = tokens.split([7, 1, 1, 2, tokens.shape[1] - 11], dim=1)
    yield torch.cat([model(step, cache) for step in steps], dim=1)


def loaded(kind: type[nn.Module], config: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    model = kind(config)
    model.load_state_dict(weights, strict=True)
    return model


def ids(tokenizer: Path, texts: list[str]) -> dict[str, Any]:
    found = Llama3Tokenizer(str(tokenizer))
    return {"ids": [found.encode(text, bos=True) for text in texts]}


if __name__ == "__main__":
    answer(judge)
