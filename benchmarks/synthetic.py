"""Full-size Meta checkpoints of random weights, with the shapes of the released models and their tokenizer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """A released model's sizes, as its params.json has them."""

    name: str
    dim: int
    layers: int
    heads: int
    kv_heads: int
    multiple_of: int
    ffn_dim_multiplier: float
    intermediate: int
    scaled: bool


MODELS = {
    "1B": Shapes(name="1B", dim=2048, layers=16, heads=32, kv_heads=8, multiple_of=256, ffn_dim_multiplier=1.5,
                 intermediate=8192, scaled=True),
    "8B": Shapes(name="8B", dim=4096, layers=32, heads=32, kv_heads=8, multiple_of=1024, ffn_dim_multiplier=1.3,
                 intermediate=14336, scaled=True),
}  # fmt: skip
_VOCABULARY = 128256
_ROWS = 4096  # made at a time


def tokenizer() -> Path:
    """The real Llama 3 tokenizer, from the llama-models package."""
    import llama_models.llama3

    return Path(llama_models.llama3.__file__).parent / "tokenizer.model"


def made(name: str, folder: Path) -> Path:
    """The checkpoint's folder, written by a process of its own unless it is there.

    A child's peak memory counts what it shared with its parent at birth: the measuring process stays small.
    """
    if not (folder / "params.json").exists():
        subprocess.run([sys.executable, "-m", __spec__.name, name, folder], check=True)
    return folder


def make(shapes: Shapes, folder: Path) -> None:
    """Write the checkpoint as Meta ships it, in one shard.

    The head is not tied, as in the 3.0 GB file that a tied pair saved twice gives. Memory: some rows; disk: the
    weights a second time while they are made.
    """
    import torch

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    made = folder / "weights"
    torch.save({name: _weight(made, shape) for name, shape in _tensors(shapes).items()}, folder / "consolidated.00.pth")
    made.unlink()
    shutil.copy(tokenizer(), folder / "tokenizer.model")
    (folder / "params.json").write_text(json.dumps(_params(shapes)))


def _weight(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Values of about the size in which trained weights come, so that the model can be run; norms are no ones.

    They lie in the file, behind those that are there.
    """
    import numpy as np
    import torch

    start = path.stat().st_size if path.exists() else 0
    with path.open("ab") as file:
        for first in range(0, shape[0], _ROWS):
            rows = (min(_ROWS, shape[0] - first), *shape[1:])
            part = torch.randn(rows).div_(rows[-1] ** 0.5) if len(rows) == 2 else 0.5 + torch.rand(rows)
            file.write(part.bfloat16().view(torch.int16).numpy().data)
    return torch.from_numpy(np.memmap(path, np.int16, "r+", start, shape)).view(torch.bfloat16)


def _tensors(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    dim, keys = shapes.dim, shapes.dim // shapes.heads * shapes.kv_heads
    layer = {
        "attention.wq": (dim, dim),
        "attention.wk": (keys, dim),
        "attention.wv": (keys, dim),
        "attention.wo": (dim, dim),
        "feed_forward.w1": (shapes.intermediate, dim),
        "feed_forward.w3": (shapes.intermediate, dim),
        "feed_forward.w2": (dim, shapes.intermediate),
        "attention_norm": (dim,),
        "ffn_norm": (dim,),
    }
    top = {"tok_embeddings": (_VOCABULARY, dim), "norm": (dim,), "output": (_VOCABULARY, dim)}
    names = top | {f"layers.{i}.{name}": shape for i in range(shapes.layers) for name, shape in layer.items()}
    return {f"{name}.weight": shape for name, shape in names.items()}


def _params(shapes: Shapes) -> dict[str, object]:
    return {
        "dim": shapes.dim,
        "n_layers": shapes.layers,
        "n_heads": shapes.heads,
        "n_kv_heads": shapes.kv_heads,
        "vocab_size": _VOCABULARY,
        "multiple_of": shapes.multiple_of,
        "ffn_dim_multiplier": shapes.ffn_dim_multiplier,
        "norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "use_scaled_rope": shapes.scaled,
    }


if __name__ == "__main__":
    make(MODELS[sys.argv[1]], Path(sys.argv[2]))
