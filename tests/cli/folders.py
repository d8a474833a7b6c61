"""What lies in a folder: values of its JSON files, tensors, bytes, and which files were written anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def values(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The object in a JSON file."""
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def tensor(folder: Path, name: str) -> torch.Tensor:
    """One tensor of a Hugging Face folder with several weight files."""
    places = values(folder, "model.safetensors.index.json")["weight_map"]
    return load_file(folder / places[name])[name]


def inodes(folder: Path) -> dict[str, int]:
    """By path: the same for files that were not written anew."""
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
