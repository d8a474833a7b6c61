"""The size of Meta's feed-forward layers: no params.json states it, it follows from a formula of three terms."""

from __future__ import annotations

from collections.abc import Iterator

# Terms of the released models, each before those that would give its size as well: Llama 3.2 1B; Llama 2 and
# 3 70B; Llama 3 8B; Llama 3.1 405B. Llama 3.2 3B, Llama 1, 2 and Code Llama have 256 and no stretching.
_RELEASED = ((256, 1.5), (4096, 1.3), (1024, 1.3), (4096, 1.2))
_MULTIPLES = (256, 1024, 4096, *(1 << power for power in range(9, -1, -1) if power != 8))
_USUAL = (1.2, 1.3, 1.5)
_MOST_DIGITS = 17


def intermediate_size(hidden_size: int, multiple_of: int, multiplier: float | None) -> int:
    """Rows of w1 and w3, rounded in the order in which Meta's code rounds.

    Source: meta-llama/llama-models models/llama3/model.py, FeedForward and TransformerBlock.
    """
    size = int(2 * 4 * hidden_size / 3)
    if multiplier is not None:
        size = int(multiplier * size)
    return int(multiple_of * ((size + multiple_of - 1) // multiple_of))


def terms_for(hidden_size: int, wanted: int, *, plain: float | None) -> tuple[int, float | None]:
    """`multiple_of` and `ffn_dim_multiplier` for which the formula gives exactly the wanted size.

    plain: the multiplier that stretches nothing, as the version's own files write it: 1.0, or None where
    they leave it out. The terms of the releases come first, then round numbers, then as few digits as it takes.
    """
    return next(
        terms for terms in _candidates(hidden_size, wanted, plain) if intermediate_size(hidden_size, *terms) == wanted
    )


def _candidates(hidden_size: int, wanted: int, plain: float | None) -> Iterator[tuple[int, float | None]]:
    """The last of them cannot miss: they aim at the middle of what rounds to the size, with all digits there are."""
    yield from _RELEASED
    multiples = [multiple for multiple in _MULTIPLES if wanted % multiple == 0]
    yield from ((multiple, multiplier) for multiple in multiples for multiplier in (plain, *_USUAL))
    base = int(2 * 4 * hidden_size / 3)
    for multiple in multiples:
        middle = (wanted + 1 - multiple / 2) / base
        yield from ((multiple, round(middle, digits)) for digits in range(_MOST_DIGITS))
