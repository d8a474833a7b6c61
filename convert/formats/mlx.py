"""MLX's format: Hugging Face's names and files, marked `format: mlx`; quantised models can be read.

Source: ml-explore/mlx-lm mlx_lm/utils.py (save_model, load_config), mlx_lm/models/llama.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from llama_convert.convert.containers.safetensors import read_safetensors
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.formats.huggingface import HUGGING_FACE, write_huggingface


def recognises(path: Path) -> bool:
    """Whether the folder's weights say that they are MLX's."""
    if not (path / "config.json").is_file():
        return False
    return any(_marked(file) for file in sorted(path.glob("model*.safetensors"))[:1])


def _marked(path: Path) -> bool:
    try:
        return (read_safetensors(byte_source(path)).metadata or {}).get("format") == "mlx"
    except CheckpointError:  # opened as Hugging Face's, it is reported there
        return False


MLX = replace(
    HUGGING_FACE,
    name="mlx",
    title="MLX safetensors",
    recognises=recognises,
    writer=partial(write_huggingface, marked="mlx"),
)
