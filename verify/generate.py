"""Tokens written by a model, one after the other, for several prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from llama_convert.convert.architecture import LlamaConfig
from llama_convert.convert.errors import UsageError, counted
from llama_convert.verify.model import Model
from llama_convert.verify.past import Past
from llama_convert.verify.sampling import Sampling, draw, generators

# Whether a sequence is over with its newest token: its number among the prompts, its new tokens.
Over = Callable[[int, Sequence[int]], bool]


def write(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    max_new_tokens: int,
    over: Over,
    *,
    first: int = 0,
    compiled: bool = False,
    past: Past | None = None,
) -> Iterator[tuple[int | None, ...]]:
    """The next token of every prompt, again and again; None for those that are over.

    Ends when all are over, after max_new_tokens, or where the model's context is full. A token on which a sequence
    ends is given too. first: the number of the first prompt among those drawn with the same seed. compiled: as
    `next_logits` has it. past: what was read before, and takes in what is read and written here.
    Raises UsageError: prompts that are empty, longer than the context, or with ids that are no tokens.
    """
    check_prompts(model.config, prompts)
    capacity = min(max(map(len, prompts)) + max_new_tokens, model.config.context)
    written: list[list[int]] = [[] for _ in prompts]
    running = [True] * len(prompts)
    for found in _drawn(model, prompts, sampling, capacity, first, past or Past(), compiled=compiled):
        yield tuple(token if alive else None for token, alive in zip(found, running, strict=True))
        for number, token in enumerate(found):
            if running[number]:
                written[number].append(token)
                running[number] = not over(number, written[number])
        if not any(running):
            return


def _drawn(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    capacity: int,
    first: int,
    past: Past,
    *,
    compiled: bool,
) -> Iterator[list[int]]:
    """One token for every prompt after the other, until there are as many as the capacity."""
    sources = generators(sampling, first, len(prompts))
    drawn: Tensor | None = None
    for _ in range(capacity - max(map(len, prompts))):
        # Not around the yield: whoever is given the token would compute in this mode too.
        with torch.inference_mode():
            if drawn is None:
                logits = past.read(model, prompts, capacity, compiled=compiled)
            else:
                logits = past.go_on(drawn, compiled=compiled)
            drawn = draw(logits, sampling, sources)
        yield drawn.tolist()


def check_prompts(config: LlamaConfig, prompts: Sequence[Sequence[int]]) -> None:
    """UsageError with everything that is wrong with them."""
    problems = [
        f"prompt {number}: {problem}"
        for number, prompt in enumerate(prompts, start=1)
        for problem in _problems(prompt, config.vocab_size, config.context)
    ]
    if problems:
        raise UsageError(
            f"The model cannot go on from {counted(len(problems), 'prompt')}",
            problems=problems,
            advice="Shorten what is too long; ids must be tokens of this model.",
        )


def _problems(prompt: Sequence[int], vocab_size: int, context: int) -> Iterator[str]:
    unknown = [token for token in prompt if not 0 <= token < vocab_size]
    if not prompt:
        yield "it has no tokens"
    if unknown:
        yield f"no token {unknown[0]}: ids go from 0 to {vocab_size - 1}"
    if len(prompt) >= context:
        yield f"{len(prompt):,} tokens leave no room in a context of {context:,}"
