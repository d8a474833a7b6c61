"""Two models run in step, place by place: how far apart they are at each, and how far rounding alone brings one.

Both are streamed from their files; in memory are one weight of each and the activations. Rounding is measured in
the same run: some prompts go through A a second time, as echoes, with every sum made in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llama_convert.verify.forward import Multiply, Place, Run, after, lengths, places
from llama_convert.verify.products import product
from llama_convert.verify.prompts import Prompt

_CHUNK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How far B is from A behind a place, and A from its echo, in spreads of A's values there."""

    place: Place
    difference: float
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models' logits, (tokens, vocab) of all prompts one after the other, and the gaps on the way to them."""

    a: Tensor
    b: Tensor
    gaps: tuple[Gap, ...]

    @property
    def difference(self) -> float:
        """Of the logits."""
        return self.gaps[-1].difference

    @property
    def noise(self) -> float:
        """Of the logits."""
        return self.gaps[-1].noise


def compare(a: Run, b: Run) -> Comparison:
    """Both through the same prompts. They must have as many layers, the same hidden size and vocabulary.

    Cost: the weights of both read once; the largest part of a weight in memory, and two arrays of logits.
    """
    echoing = _Echoing(a.prompts)
    gaps: list[Gap] = []
    before, behind = torch.empty(0), torch.empty(0)
    for place, before, behind in in_step(replace(a, prompts=echoing.prompts, multiply=echoing.multiply), b):
        plain = before[: echoing.tokens]
        noise = distance(plain[echoing.rows], before[echoing.tokens :])
        gaps.append(Gap(place=place, difference=distance(plain, behind), noise=noise))
    return Comparison(a=before[: echoing.tokens], b=behind, gaps=tuple(gaps))


def in_step(a: Run, b: Run) -> Iterator[tuple[Place, Tensor, Tensor]]:
    """Each place with what leaves it on either side."""
    left, right = torch.empty(0), torch.empty(0)
    for place in places(a.checkpoint.config):
        left, right = after(a, place, left), after(b, place, right)
        yield place, left, right


class _Echoing:
    """The prompts with echoes of the small ones behind them, and how to multiply them all.

    tokens: rows that are no echoes. rows: those that are echoed, in the order of their echoes.
    """

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        sizes = lengths(prompts)
        self.tokens = sum(sizes)
        echoed = [place for place, size in enumerate(sizes) if size < max(sizes)] or [0]
        self.prompts = (*prompts, *(prompts[place] for place in echoed))
        spans = torch.split(torch.arange(self.tokens), sizes)
        self.rows = torch.cat([spans[place] for place in echoed])

    @property
    def multiply(self) -> Multiply:
        def multiplied(rows: Tensor, weight: Tensor) -> Tensor:
            echoes = rows[self.tokens :]
            return torch.cat((product(rows[: self.tokens], weight), _the_other_way(echoes, weight)))

        return multiplied


def _the_other_way(rows: Tensor, weight: Tensor) -> Tensor:
    """The same sums with their second half first."""
    middle = weight.shape[1] // 2
    return product(rows[:, middle:], weight[:, middle:]) + product(rows[:, :middle], weight[:, :middle])


def distance(reference: Tensor, other: Tensor) -> float:
    """Largest difference at any row and column, in spreads of the reference; infinite with a NaN."""
    gaps = torch.stack([(wanted - found).abs().max() for wanted, found in some_rows(reference, other)])
    largest = float(gaps.max() / reference.std())
    return largest if math.isfinite(largest) else math.inf


def some_rows(reference: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A few rows of both at a time: with a large vocabulary all logits are a quarter of a gigabyte."""
    return zip(torch.split(reference, _CHUNK), torch.split(other, _CHUNK), strict=True)
