"""The classes of the book "Build a Large Language Model From Scratch", from its package llms-from-scratch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.against.library import Answer, Library
from llama_convert.verify.prompts import Prompt

_CONFIG = "scratch_config.json"


def _answers(checkpoint: Checkpoint, prompts: Sequence[Prompt]) -> Iterator[Answer]:
    """Memory: the whole model in float32."""
    from llms_from_scratch.llama3 import Llama3Model

    longest = max(len(prompt.tokens) for prompt in prompts)
    # Its tables of cosines and sines have a row for every position of the context: those asked about are enough.
    model = Llama3Model({**_config(checkpoint), "context_length": longest, "dtype": torch.float32})
    model.load_state_dict(_state(checkpoint), strict=True)
    with torch.inference_mode():
        for prompt in prompts:
            scores = model(torch.tensor([prompt.tokens]))[0]
            yield Answer(at=tuple(range(len(prompt.tokens))), scores=scores.clone())


def _state(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    found: Mapping[str, Tensor] = torch.load(
        checkpoint.files[0].path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(checkpoint)
    )
    return found


def _can_be_mapped(checkpoint: Checkpoint) -> bool:
    # A pickle without a zip around it, as torch wrote them before 1.6, must be read whole.
    with checkpoint.files[0].path.open("rb") as file:
        return file.read(2) == b"PK"


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the user of the book would give the class: the file beside the weights; without one, our reading."""
    beside = checkpoint.folder / _CONFIG
    if beside.is_file():
        found: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
        return found
    config, scaling = checkpoint.config, checkpoint.config.rope_scaling
    return {
        "vocab_size": config.vocab_size,
        "emb_dim": config.hidden_size,
        "n_heads": config.heads,
        "n_layers": config.layers,
        "hidden_dim": config.intermediate_size,
        "n_kv_groups": config.kv_heads,
        "rope_base": config.rope_theta,
        "rope_freq": scaling
        and {
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_context_length": scaling.original_context,
        },
    }


SCRATCH = Library(
    name="llms-from-scratch",
    module="llms_from_scratch.llama3",
    package="llms-from-scratch",
    # With what it says it needs come TensorFlow and 2 GB; of that, its Llama needs torch and tiktoken alone.
    install="pip install --no-deps llms-from-scratch",
    reads=("scratch",),
    answers=_answers,
)
