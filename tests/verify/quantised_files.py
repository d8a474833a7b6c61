"""A model that every quantised type can hold, and GGUF files of it, written without the converter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType as Type

from tests.checkpoints import MetaModel, random_model
from tests.convert.gguf_models import gguf_weights, llama_keys
from tests.verify.naive_quantisers import QUANTISERS, quantised

Change = Callable[[dict[str, torch.Tensor]], None]


def quantisable_model(seed: int = 0) -> MetaModel:
    """Rows of 256 and 1,024: whole blocks of the k-quants. Sizes of their own for all but gate and up."""
    return random_model("3", seed=seed, dim=256, heads=8, kv_heads=4, params={"multiple_of": 256})


def write_quantised(
    path: Path, kind: Type, change: Change = lambda weights: None, spoil: Callable[[str, Any], None] | None = None
) -> Path:
    """The model in that type, norms in float32. change: of the weights; spoil: of each matrix's bytes."""
    found = quantisable_model()
    change(found.weights)
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in llama_keys(found, 8192).items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(key, value)
    for name, weight in gguf_weights(found).items():
        values = weight.float().numpy()
        if weight.dim() == 1:
            writer.add_tensor(name, values)
            continue
        data = quantised(values, kind) if kind in QUANTISERS else gguf.quants.quantize(values, kind)
        if spoil:
            spoil(name, data)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
