"""Hugging Face's transformers on a folder of its format: 4.47 to 5.x."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.against.library import Answer, Library
from llama_convert.verify.prompts import Prompt

# It rounds angles to float32. What that adds grows with the position: measured in 5.23 on right files, in spreads of
# the logits, 1e-5 to 9e-5 about 1,000, 1e-4 to 6e-4 about 8,192 and up to 9e-3 about 131,072. A wrong rotary
# factor makes 0.2 to 4 from 8,192 on: further out only the noise still grows.
_FURTHEST = 8195


def _answers(checkpoint: Checkpoint, prompts: Sequence[Prompt]) -> Iterator[Answer]:
    """Memory: the whole model in float32."""
    with _quiet(), torch.inference_mode():
        model = _loaded(checkpoint)
        for prompt in prompts:
            tokens = torch.tensor([prompt.tokens])
            scores = model(
                input_ids=tokens,
                position_ids=torch.tensor([prompt.positions]),
                # Without a mask, transformers 5 takes a gap for the start of another sequence.
                attention_mask=torch.ones_like(tokens),
                use_cache=False,
            ).logits[0]
            yield Answer(at=tuple(range(len(prompt.tokens))), scores=scores.clone())


def _loaded(checkpoint: Checkpoint) -> Any:
    """The model in float32. ValueError where it found no tensor for a weight: it would fill that at random."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    options: dict[str, Any] = {
        # At loading: a later .to() would round the rotary frequencies as well.
        "dtype" if (major, minor) >= (4, 56) else "torch_dtype": torch.float32,
        "attn_implementation": "eager",
        "local_files_only": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.folder, **options)
    lost = [*loading.get("missing_keys", ()), *(str(key) for key in loading.get("mismatched_keys", ()))]
    if lost:
        raise ValueError(f"no tensor that fits for {len(lost)} of its weights, such as {sorted(lost)[0]}")
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice of the library's on the screen."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


TRANSFORMERS = Library(
    name="transformers",
    module="transformers",
    package="transformers",
    install='pip install "transformers>=4.47"',
    reads=("hf", "mlx"),
    furthest=_FURTHEST,
    answers=_answers,
)
