"""A state dict written the way Meta publishes one: model-parallel shards, params.json, checklist.chk."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from training.model import Params

# Which axis the model-parallel layers of Llama 3 split: meta-llama/llama3 llama/model.py.
BY_ROWS = ("wq", "wk", "wv", "w1", "w3", "output", "tok_embeddings")
BY_COLUMNS = ("wo", "w2")


def write_checkpoint(folder: Path, weights: Mapping[str, Tensor], params: Params, shards: int) -> None:
    """Write everything but tokenizer.model, which must be there already, for the checklist to name it."""
    (folder / "params.json").write_text(json.dumps(asdict(params), indent=2) + "\n", encoding="ascii")
    for shard in range(shards):
        # torch.save names the folder inside the zip after the file, so it is written under its final name.
        torch.save(part_of(weights, shard, shards), folder / f"consolidated.{shard:02d}.pth")
    write_checklist(folder)


def part_of(weights: Mapping[str, Tensor], shard: int, shards: int) -> dict[str, Tensor]:
    """What one shard holds. Cloned: torch.save writes the whole storage behind a view."""
    return {name: cut(name, weight, shards)[shard].clone().contiguous() for name, weight in weights.items()}


def cut(name: str, weight: Tensor, shards: int) -> list[Tensor]:
    layer = name.split(".")[-2]
    if layer in BY_ROWS:
        return list(weight.chunk(shards, dim=0))
    if layer in BY_COLUMNS:
        return list(weight.chunk(shards, dim=1))
    return [weight] * shards


def write_checklist(folder: Path) -> None:
    """The MD5 of every file, in the format of md5sum."""
    files = sorted(path for path in folder.iterdir() if path.suffix in {".pth", ".json", ".model"})
    lines = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "checklist.chk").write_text("".join(lines), encoding="ascii")
