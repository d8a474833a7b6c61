"""torchtune's own checkpointers on a folder: of Hugging Face, of Meta (one shard), or in torchtune's own names.

It reads no sizes from the folder: they come with the question.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from question import answer
from torch import nn
from torchtune.models.llama3 import llama3, llama3_tokenizer
from torchtune.models.llama3_2 import llama3_2
from torchtune.training import FullModelHFCheckpointer, FullModelMetaCheckpointer, FullModelTorchTuneCheckpointer


def judge(path: Path, question: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    sizes, tokens = question["sizes"], question["tokens"]
    model = network(sizes, len(tokens))
    model.load_state_dict(weights(path, tied=sizes["tied"]), strict=True)  # copies, into float32
    with torch.no_grad():
        scores = model(torch.tensor([tokens]))[0]
    return scores.numpy(), ids(path, question["texts"])


def network(sizes: dict[str, Any], positions: int) -> nn.Module:
    """The builder of Llama 3.2 takes factor and tie; without scaling only the one of Llama 3 fits."""
    common = {
        "vocab_size": sizes["vocab"],
        "num_layers": sizes["layers"],
        "num_heads": sizes["heads"],
        "num_kv_heads": sizes["kv_heads"],
        "embed_dim": sizes["dim"],
        "intermediate_dim": sizes["hidden"],
        "max_seq_len": positions,
        "rope_base": sizes["theta"],
        "norm_eps": sizes["eps"],
    }
    if sizes["rope_factor"] is None:
        return llama3(**common)
    return llama3_2(**common, scale_factor=sizes["rope_factor"], tie_word_embeddings=sizes["tied"])


def weights(path: Path, *, tied: bool) -> dict[str, torch.Tensor]:
    """What the recipes would load; only the type LLAMA3_2 takes the head out of a tied model of Meta's."""
    reader = FullModelTorchTuneCheckpointer
    files = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", ".pth", ".pt", ".bin"))
    if files[0].endswith(".safetensors"):
        reader = FullModelHFCheckpointer
    elif files[0].startswith("consolidated."):
        reader = FullModelMetaCheckpointer
    with tempfile.TemporaryDirectory() as out:
        kind = "LLAMA3_2" if tied else "LLAMA3"
        return reader(str(path), files, model_type=kind, output_dir=out).load_checkpoint()["model"]


def ids(path: Path, texts: list[str]) -> dict[str, Any]:
    """torchtune reads Meta's tokenizer only; our Hugging Face folders keep it in original/."""
    found = [file for file in (path / "tokenizer.model", path / "original" / "tokenizer.model") if file.exists()]
    if not found:
        return {}
    tokenizer = llama3_tokenizer(str(found[0]))
    return {"ids": [tokenizer.encode(text, add_bos=True, add_eos=False) for text in texts]}


if __name__ == "__main__":
    answer(judge)
