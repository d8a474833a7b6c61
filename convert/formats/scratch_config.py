"""The configuration that the book's classes take: as JSON, and as a Python file ready to import.

Keys: llms_from_scratch/llama3.py, LLAMA32_CONFIG_1B; the book's LLAMA2_CONFIG_7B has fewer of the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llama_convert.convert.architecture import LlamaConfig, RopeScaling
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.formats.scratch_sizes import Shapes
from llama_convert.convert.formats.size_problems import are_sizes, size_problems
from llama_convert.convert.json_files import json_file, no_numbers, read_object
from llama_convert.convert.outputs import SideFile

CONFIG = "scratch_config.json"
_MODULE = "scratch_config.py"
_SIZES = ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers", "hidden_dim")
_WHOLE = (*_SIZES, "n_kv_groups")
_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_context_length")
# What Llama2Model has no keys for: as many key heads as heads, and this theta.
_THETA_OF_LLAMA_2 = 10000.0
_ADVICE = "Correct it: it has the keys of the book's configurations."
_HEAD = '''"""The configuration of {weights} for the classes of the book "Build a Large Language Model From Scratch".

    import torch
    from llms_from_scratch.llama3 import Llama3Model
    from scratch_config import CONFIG

    model = Llama3Model(CONFIG)
    model.load_state_dict(torch.load("{weights}", weights_only=True, mmap=True))
"""

import torch

CONFIG = {{
'''


def config_files(config: LlamaConfig, dtype: DType, weights: str) -> tuple[SideFile, ...]:
    """`scratch_config.json` and `scratch_config.py`, for the weight file of that name."""
    values = _values(config, dtype)
    text = _HEAD.format(weights=weights) + "".join(_lines(values)) + "}\n"
    return json_file(CONFIG, values), SideFile(_MODULE, partial(_write, text))


def _values(config: LlamaConfig, dtype: DType) -> dict[str, Any]:
    scaling = config.rope_scaling
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.context,
        "emb_dim": config.hidden_size,
        "n_heads": config.heads,
        "n_layers": config.layers,
        "hidden_dim": config.intermediate_size,
        "n_kv_groups": config.kv_heads,
        "rope_base": config.rope_theta,
        "dtype": dtype.label,
        "rope_freq": scaling
        and {
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_context_length": scaling.original_context,
        },
    }


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        text = f"torch.{value}" if name == "dtype" else "None" if value is None else json.dumps(value)
        yield f'    "{name}": {text},\n'


def _write(text: str, target: Path) -> None:
    target.write_text(text, encoding="utf-8")


def read_config(path: Path) -> tuple[Shapes, dict[str, Any]]:
    """The sizes that scratch_config.json claims, and what no shape shows, by the names of `find_values`.

    Raises CheckpointError with all that is missing or wrong; no size is ever guessed.
    """
    values = read_object(path)
    if values.get("n_kv_groups") is None and values.get("rope_base") is None:
        values |= {"n_kv_groups": values.get("n_heads"), "rope_base": _THETA_OF_LLAMA_2, "rope_freq": None}
    missing = [name for name in (*_WHOLE, "rope_base") if values.get(name) is None]
    missing += ["rope_freq"] if "rope_freq" not in values else []
    if missing:
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}", advice=_ADVICE)
    if problems := list(_problems(values)):
        raise CheckpointError(f"{path}: impossible values", problems=problems, advice=_ADVICE)
    rope = values["rope_freq"]
    key_rows = values["emb_dim"] // values["n_heads"] * values["n_kv_groups"]
    shapes = Shapes(values["emb_dim"], values["n_layers"], values["hidden_dim"], key_rows, values["vocab_size"])
    return shapes, {
        "heads": values["n_heads"],
        "rope_theta": float(values["rope_base"]),
        "rope_factor": float(rope["factor"]) if rope else None,
        "rope_scaling": _rope_scaling(rope) if rope else None,
        "context": values["context_length"],
    }


def _problems(values: Mapping[str, Any]) -> Iterator[str]:
    yield from size_problems(values, _WHOLE, ("rope_base",), layers="n_layers")
    width, heads = values["emb_dim"], values["n_heads"]
    if are_sizes(width, heads) and width % heads:
        yield f"emb_dim {width} does not divide into {heads} heads"
    rope = values["rope_freq"]
    if rope is not None:
        yield from _rope_problems(rope)


def _rope_problems(rope: Any) -> Iterator[str]:
    if not isinstance(rope, dict):
        yield f"rope_freq is {rope!r}, wanted null or its four numbers"
        return
    yield from (f"rope_freq lacks {name}" for name in _SCALING if rope.get(name) is None)
    yield from no_numbers(rope, _SCALING[-1:], _SCALING[:-1])


def _rope_scaling(rope: Mapping[str, Any]) -> RopeScaling:
    return RopeScaling(
        factor=float(rope["factor"]),
        low_frequency_factor=float(rope["low_freq_factor"]),
        high_frequency_factor=float(rope["high_freq_factor"]),
        original_context=rope["original_context_length"],
    )
