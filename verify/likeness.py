"""How alike two models' predictions are, in the measures that people know. Wrong models have passed all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_convert.verify.forward import lengths
from llama_convert.verify.lockstep import some_rows
from llama_convert.verify.prompts import Prompt

_TOP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """B's predictions beside A's.

    same_first: share of positions with the same likeliest token; same_ten: share of A's ten likeliest that are
    among B's. mean_divergence, largest_divergence: Kullback-Leibler, of B from A, over positions, in nats.
    perplexity_a, perplexity_b: of the longest prompt, given its beginning.
    """

    same_first: float
    same_ten: float
    mean_divergence: float
    largest_divergence: float
    perplexity_a: float
    perplexity_b: float

    @property
    def perplexity_ratio(self) -> float:
        """Of B to A."""
        return self.perplexity_b / self.perplexity_a


def likeness(a: Tensor, b: Tensor, prompts: Sequence[Prompt]) -> Likeness:
    """Of logits, (tokens, vocab) of all prompts one after the other. Cost: a few passes over both."""
    found = [_of_rows(*rows) for rows in some_rows(a, b)]
    first, ten, divergence = (torch.cat(column) for column in zip(*found, strict=True))
    return Likeness(
        same_first=float(first.mean()),
        same_ten=float(ten.mean()),
        mean_divergence=float(divergence.mean()),
        largest_divergence=float(divergence.max()),
        perplexity_a=_perplexity(a, prompts),
        perplexity_b=_perplexity(b, prompts),
    )


def _of_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row: whether the first is the same, the share of the ten, the divergence. On the CPU, in float64."""
    tens = [rows.topk(min(_TOP, rows.shape[1])).indices for rows in (a, b)]
    shared = (tens[0].unsqueeze(2) == tens[1].unsqueeze(1)).any(2)
    wanted, found = _log_shares(a), _log_shares(b)
    divergence = (wanted.exp() * (wanted - found)).sum(-1)
    return (tens[0][:, 0] == tens[1][:, 0]).double().cpu(), shared.double().mean(1).cpu(), divergence.cpu()


def _log_shares(rows: Tensor) -> Tensor:
    # In float64, for divergences of 1e-10 are seen too. Apple's GPUs have none.
    return (rows.cpu() if rows.device.type == "mps" else rows).double().log_softmax(-1)


def _perplexity(logits: Tensor, prompts: Sequence[Prompt]) -> float:
    sizes = lengths(prompts)
    longest = sizes.index(max(sizes))
    rows, tokens = torch.split(logits, sizes)[longest], prompts[longest].tokens
    losses = [float(-_log_shares(row.unsqueeze(0))[0, token]) for row, token in _predicted(rows, tokens)]
    mean = sum(losses) / len(losses) if losses else 0.0
    return math.exp(min(mean, 700.0))  # beyond, a float is infinite


def _predicted(rows: Tensor, tokens: Sequence[int]) -> Iterator[tuple[Tensor, int]]:
    """Each row with the token that it should have predicted."""
    return zip(rows[:-1], tokens[1:], strict=True)
