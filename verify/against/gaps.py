"""How far a library's answers lie from our logits, and how far rounding may bring them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.against.library import Answer, Library
from llama_convert.verify.forward import FLOAT32, FLOAT64, logits_of
from llama_convert.verify.prompts import Prompt

# Differences and noise are in spreads (standard deviations) of our logits at a prompt. Noise: our own float32 from our
# float64, in the same run. A right library in float32 lay 0.8 to 2 times as far off in prompts without gaps, from
# 2 to 32 layers, flat and sharpened; llama.cpp up to 3.4 times.
SAFETY = 8.0
# They round angles to float32, we do not: an error that grows with the position. Measured in transformers 5.23, in
# noises: position / 75 at the most. Allowed: position / 16.
ANGLES = 16.0
# Below, a model would be held to the luck of its noise.
FLOOR = 1e-5
# The smallest known mistake, norm_eps 1e-6 for 1e-5, makes 3e-3 to 0.2: where the gates of all prompts are higher than
# this, it could pass.
CEILING = 1e-3
# Of files that a library computes in fewer bits: the mean Kullback-Leibler divergence of a prompt, in nats, for a model
# whose noise is at most USUAL; in proportion for others. An allowance, and a wide one. Measured with llama.cpp: up to
# 1e-4 in F16 and BF16, 1.5e-3 in Q8_0 and Q4_0, 3e-3 in those of the trained demo model, 5e-2 at a noise of 9e-5. Theta
# 10,000 for 500,000 makes 0.1 to 5. A lost scaling makes 1e-3 to 9e-2 at these lengths, norm_eps nothing that shows.
ROUNDED, USUAL = 0.01, 1e-5
# llama.cpp takes its softmax in float32: log-probabilities below this tell nothing.
_LOWEST = -80.0
_CHUNK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How far an answer is from our logits at the same places of one prompt.

    difference: the largest, in spreads of our logits. divergence: mean Kullback-Leibler divergence, in nats.
    same_first: share of the places with the same likeliest token.
    """

    prompt: str
    places: int
    difference: float
    divergence: float
    same_first: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """What one prompt's gap is judged by: its difference, or, where not exact, its divergence."""

    exact: bool
    noise: float
    gate: float

    def measured(self, gap: Gap) -> float:
        """The figure that is held against the gate."""
        return gap.difference if self.exact else gap.divergence

    def times(self, gap: Gap) -> float:
        """How many times the gate it is: above 1 it failed."""
        return self.measured(gap) / self.gate if math.isfinite(self.gate) else math.inf


def yardsticks(
    library: Library, a: Checkpoint, prompts: tuple[Prompt, ...], truth: Sequence[Tensor]
) -> list[Yardstick]:
    """One for each prompt. truth: our logits in float64. Cost: every weight read once, computed in float32."""
    exact = library.exact(a)
    found = []
    for prompt, wanted, rounded in zip(prompts, truth, logits_of(a, prompts, FLOAT32), strict=True):
        noise = _largest(wanted, rounded) / float(wanted.std())
        gate = _gate(noise, prompt.positions[-1]) if exact else ROUNDED * max(noise / USUAL, 1.0)
        found.append(Yardstick(exact=exact, noise=noise, gate=gate))
    return found


def _gate(noise: float, furthest: int) -> float:
    return max(noise, FLOOR / SAFETY) * (SAFETY + furthest / ANGLES)


def true_logits(a: Checkpoint, prompts: tuple[Prompt, ...]) -> tuple[Tensor, ...]:
    """Ours, in float64, all positions of each prompt."""
    return logits_of(a, prompts, FLOAT64)


def gap(prompt: Prompt, answer: Answer, ours: Tensor, *, log_probabilities: bool) -> Gap:
    """The distance at the places that the answer is for. Infinite with a NaN on either side.

    A few places at a time: with a large vocabulary all logits are a quarter of a gigabyte.
    """
    pairs = zip(torch.split(ours[list(answer.at)], _CHUNK), torch.split(answer.scores, _CHUNK), strict=True)
    found = [_at_places(wanted.double(), told.double(), log_probabilities) for wanted, told in pairs]
    differences, divergences, same = (torch.cat(column) for column in zip(*found, strict=True))
    spread = float(ours.std())
    return Gap(
        prompt=prompt.name,
        places=len(answer.at),
        difference=_finite(float(differences.max()) / spread),
        divergence=_finite(float(divergences.mean())),
        same_first=float(same.double().mean()),
        spread=spread,
    )


def _at_places(wanted: Tensor, found: Tensor, log_probabilities: bool) -> tuple[Tensor, Tensor, Tensor]:
    """At each: the largest difference, the divergence, and whether the likeliest token is the same."""
    same = wanted.argmax(-1) == found.argmax(-1)
    before, after = wanted.log_softmax(-1), found.log_softmax(-1)
    if not log_probabilities:
        everything = torch.ones_like(found, dtype=torch.bool)
        return (wanted - found).abs().amax(-1), _divergences(before, after, everything), same
    told = ~(found <= _LOWEST)
    difference = torch.where(told, before - found, 0.0).abs().amax(-1)
    return difference, _divergences(before, found, told), same


def _divergences(before: Tensor, after: Tensor, told: Tensor) -> Tensor:
    """In nats, at each place; the tokens that were not told count as one, which can only make it smaller."""
    known = torch.where(told, before.exp() * (before - after), 0.0).sum(-1)
    rest, theirs = ((1 - torch.where(told, side.exp(), 0.0).sum(-1)).clamp(1e-9) for side in (before, after))
    return known + rest * (rest / theirs).log()


def _largest(reference: Tensor, other: Tensor) -> float:
    pairs = zip(torch.split(reference, _CHUNK), torch.split(other, _CHUNK), strict=True)
    return _finite(float(torch.stack([(before - after).abs().max() for before, after in pairs]).max()))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
