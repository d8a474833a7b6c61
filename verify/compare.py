"""The logits level: both sides run in their own convention, the numbers held against a measured noise floor."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_convert.convert.architecture import Role, Weight
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.forward import FLOAT32, FLOAT64, Load, logits
from llama_convert.verify.reading import Piece, read, rounded_like
from llama_convert.verify.report import LevelResult, judged

NAME = "logits"
# Long enough that a wrong rotary factor shows: at 16 positions it changes next to nothing.
POSITIONS = 256
# All distances are in spreads (standard deviations) of the logits. Two right computations in float32 lie
# about as far from the truth as each other: A's own distance from float64, measured in the same run, is the
# noise. Another order of sums, other roundings of the angles gave up to 3.4 times as much: hence 8.
SAFETY = 8.0
# Below, a model would be held to the luck of its noise. Noise measured: 1e-5 to 3e-5 with 2 sharpened layers,
# 4e-4 with 32; 5e-6 with 32 flat ones.
FLOOR = 1e-5
# The smallest known mistake at this length (norm_eps 1e-6 for 1e-5) moves logits by 1e-2, at 16 positions
# by 1e-3. A gate near that proves nothing: above this one, both sides are held against each other in float64.
CEILING = 5e-4
# In float64, 29 bits finer: differences of 2e-13 to 2e-11 measured where the noise in float32 was 1e-4 to 3e-2.
FLOAT64_GATE = 1e-7
_CHUNK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsResult:
    """How far B's logits are from A's.

    difference: the largest at any position and token; noise: the same of A in float32 against A in float64;
    gate: the most that difference may be. All in spreads of A's logits.
    same_first: share of positions with the same likeliest token. divergence: largest Kullback-Leibler
    divergence at any position, in nats. These two are information: wrong models have passed them.
    compute: what decided, float32 or, where that is too noisy for this model, float64.
    """

    positions: int
    difference: float
    noise: float
    gate: float
    same_first: float
    divergence: float
    compute: str

    @property
    def passed(self) -> bool:
        """Whether the difference can be explained by rounding."""
        return self.difference <= self.gate


def check_logits(a: Checkpoint, b: Checkpoint | None) -> LevelResult:
    """Whether B computes what A computes; with A alone, whether its logits are finite."""
    if b is None:
        return _alone(a)
    if a.config.vocab_size != b.config.vocab_size:
        rows = f"{a.config.vocab_size} rows of the vocabulary against {b.config.vocab_size}"
        return judged(NAME, "no logits to compare", (rows,))
    found = compare_logits(a, b)
    figures = (
        f"{found.positions} positions in {found.compute}: difference {found.difference:.1e}, gate {found.gate:.1e}, "
        f"noise {found.noise:.1e}; same first token {found.same_first:.1%}, divergence {found.divergence:.1e}"
    )
    if a.dtype is not b.dtype:
        figures += f"; A rounded to {b.dtype.label} before"
    finding = f"logits differ by {found.difference:.3g} of their spread, rounding explains {found.gate:.1g}"
    return judged(NAME, figures, () if found.passed else (finding,))


def _alone(a: Checkpoint) -> LevelResult:
    tokens = prompt(a)
    found = logits(a, tokens)
    wrong = int((~found.isfinite()).sum())
    figures = f"{len(tokens)} positions: spread {found.std().item():.3g}, largest {found.abs().max().item():.3g}"
    return judged(NAME, figures, (f"{wrong:,} of {found.numel():,} logits are NaN or infinite",) if wrong else ())


def prompt(a: Checkpoint, b: Checkpoint | None = None) -> list[int]:
    """Random ids from the whole vocabulary, the same on every run; fewer where the context is shorter."""
    sides = [a] if b is None else [a, b]
    source, rows = random.Random(0), min(side.config.vocab_size for side in sides)
    length = min(POSITIONS, *(side.config.context for side in sides))
    return [source.randrange(rows) for _ in range(length)]


def compare_logits(a: Checkpoint, b: Checkpoint) -> LogitsResult:
    """Logits at all positions of a prompt.

    Where B stores another type than A, its logits cannot be A's. A's weights are then rounded to B's type
    first, by torch: whether B's are exactly that, the tensors level decides; this one, whether they are used
    alike.
    Cost: weights read three times, a fourth time where float32 is too noisy. Three arrays of logits.
    """
    tokens = prompt(a, b)
    exact = logits(a, tokens, _rounded_like(b, torch.float64))
    noise = distance(exact, logits(a, tokens, _rounded_like(b, torch.float32)))
    gate, other, compute = max(SAFETY * noise, FLOOR), logits(b, tokens, FLOAT32), "float32"
    if not gate <= CEILING:
        gate, other, compute = FLOAT64_GATE, logits(b, tokens, FLOAT64), "float64"
    return LogitsResult(
        positions=len(tokens),
        difference=distance(exact, other),
        noise=noise,
        gate=gate,
        same_first=float((exact.argmax(-1) == other.argmax(-1)).double().mean()),
        divergence=_divergence(exact, other),
        compute=compute,
    )


def distance(reference: Tensor, other: Tensor) -> float:
    """Largest difference at any position and token, in spreads of the reference; infinite with a NaN."""
    gaps = torch.stack([(wanted - found).abs().max() for wanted, found in _some_positions(reference, other)])
    largest = float(gaps.max() / reference.std())
    return largest if math.isfinite(largest) else math.inf


def _divergence(reference: Tensor, other: Tensor) -> float:
    found = []
    for before, after in _some_positions(reference, other):
        wanted = before.double().log_softmax(-1)
        found.append((wanted.exp() * (wanted - after.double().log_softmax(-1))).sum(-1).max())
    return float(torch.stack(found).max())


def _some_positions(reference: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A few positions of both at a time: with a large vocabulary all logits are a quarter of a gigabyte."""
    return zip(torch.split(reference, _CHUNK), torch.split(other, _CHUNK), strict=True)


def _rounded_like(b: Checkpoint, compute: torch.dtype) -> Load:
    """A's weights through the types in which B stores the same weights."""

    def load(weight: Weight, tensor: Piece) -> Tensor:
        parts = b.parts.get(weight) or b.parts[Weight(Role.TOKENS)]
        return rounded_like(read(tensor), parts.pieces[0]).to(compute)

    return load
