"""What the next token is, given the model's logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_convert.convert.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn; each limit is put on what the ones before it left, in this order.

    temperature: what logits are divided by; 0 for always the likeliest token. top_k: only the k likeliest.
    top_p: only the likeliest that together have this probability; the one that reaches it is among them.
    min_p: only those at least this times as likely as the likeliest. seed: the same seed draws the same tokens.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        """Nothing is drawn."""
        return self.temperature == 0


GREEDY = Sampling(temperature=0.0)


def check_sampling(sampling: Sampling) -> None:
    """UsageError with every value that no sampling can have."""
    problems = list(_problems(sampling))
    if problems:
        raise UsageError("This cannot be sampled", problems=problems, advice="Correct the options.")


def _problems(sampling: Sampling) -> Iterator[str]:
    if not 0 <= sampling.temperature < float("inf"):
        yield f"temperature {sampling.temperature:g}: wanted 0 or above"
    if sampling.top_k is not None and sampling.top_k < 1:
        yield f"top-k {sampling.top_k}: wanted 1 or above"
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        yield f"top-p {sampling.top_p:g}: wanted above 0 and up to 1"
    if sampling.min_p is not None and not 0 <= sampling.min_p <= 1:
        yield f"min-p {sampling.min_p:g}: wanted 0 to 1"


def limited(logits: Tensor, sampling: Sampling) -> Tensor:
    """The logits, (B, vocab), divided by the temperature; those of tokens that are not to be drawn are -inf.

    Of logits that are equal at a limit top_k and min_p keep all, top_p the later ones of a stable sort, as
    transformers does (generation/logits_process.py). Wants a temperature above 0.
    """
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        least = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = logits.masked_fill(_unlikely(logits, sampling.top_p), -torch.inf)
    if sampling.min_p is not None:
        odds = logits.softmax(-1)
        logits = logits.masked_fill(odds < sampling.min_p * odds.amax(-1, keepdim=True), -torch.inf)
    return logits


def _unlikely(logits: Tensor, top_p: float) -> Tensor:
    """The tokens that, from the least likely on, have 1 - top_p together; never the likeliest."""
    ordered, places = logits.sort(dim=-1)
    out = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
    out[:, -1] = False
    return out.scatter(-1, places, out)


def draw(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """One token for each row of logits, (B,), each drawn with its own generator."""
    if sampling.greedy:
        return logits.argmax(-1)
    odds = limited(logits, sampling).softmax(-1).cpu()
    drawn = [torch.multinomial(row, 1, generator=source) for row, source in zip(odds, generators, strict=True)]
    return torch.cat(drawn).to(logits.device)


def generators(sampling: Sampling, first: int, count: int) -> list[torch.Generator]:
    """What the sequences of these numbers are drawn with: what one draws does not depend on those beside it."""
    found = [torch.Generator() for _ in range(count)]
    for number, generator in enumerate(found, start=first):
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed + number)
    return found
