"""Every mistake that may explain why a weight differs, each as the rows that B would have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import TypeAlias

import torch
from torch import Tensor

from llama_convert.convert.architecture import NORM_ROLES, Role, Weight
from llama_convert.verify.hypothesis import Hypothesis, RowMap, moved
from llama_convert.verify.reorders import reorders, to_halves, to_pairs
from llama_convert.verify.samples import Sample, first_row
from llama_convert.verify.shards import joins
from llama_convert.verify.views import canonical_rows

# (values of A, places in the sample) -> how far B's rows there are from them.
Measure: TypeAlias = Callable[[Tensor, Tensor], float]

_VOCABULARY = (Role.TOKENS, Role.HEAD)
_EXCHANGED = {
    Role.GATE: (Role.UP, "gate-and-up-swapped"),
    Role.UP: (Role.GATE, "gate-and-up-swapped"),
    Role.KEY: (Role.VALUE, "keys-and-values-swapped"),
    Role.VALUE: (Role.KEY, "keys-and-values-swapped"),
    Role.ATTENTION_NORM: (Role.FFN_NORM, "norms-swapped"),
    Role.FFN_NORM: (Role.ATTENTION_NORM, "norms-swapped"),
}


def explained(sample: Sample) -> Hypothesis | None:
    """The mistake that explains every sampled row best; None where none does.

    To the bit, where that can be; else but for rounding, so that a second mistake does not hide the first.
    """
    exactly = _best(sample, sample.mismatch) if sample.exact else None
    return exactly or _best(sample, sample.error)


def _best(sample: Sample, measure: Measure) -> Hypothesis | None:
    every = torch.arange(len(sample.rows))
    # Rows that differ first: most guesses end there, before the others are read for them.
    possible = [found for found in _all(sample) if _distance(sample, found, measure, sample.first) < inf]
    distances = [_distance(sample, found, measure, every) for found in possible]
    best = min(distances, default=inf)
    return possible[distances.index(best)] if best < inf else None


def _distance(sample: Sample, hypothesis: Hypothesis, measure: Measure, places: Tensor) -> float:
    first, last = hypothesis.within or (0, sample.shape[0])
    rows = sample.rows[places]
    places = places[(rows >= first) & (rows < last)]
    return measure(hypothesis.values(sample.rows[places]), places) if len(places) else inf


def _all(sample: Sample) -> Iterator[Hypothesis]:
    """The likelier first: of those that fit equally well, the first counts."""
    for family in (_casts, reorders, _exchanged, joins, _shifted, _other_layers):
        yield from family(sample)


def _same(rows: Tensor) -> Tensor:
    return rows


# ---- values rounded on their way ----


def _casts(sample: Sample) -> Iterator[Hypothesis]:
    own = sample.of_a.dtype
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "float16-detour": lambda values: values.half().to(own),
        "bfloat16-detour": lambda values: values.bfloat16().to(own),
    }
    if sample.of_b.dtype is torch.bfloat16 and own is torch.float32:
        changes["truncated-not-rounded"] = _cut_off
    for cause, change in changes.items():
        yield Hypothesis(cause=cause, values=partial(_changed, sample, change))


def _changed(sample: Sample, change: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return change(sample.values(rows))


def _cut_off(values: Tensor) -> Tensor:
    """float32 without its lower 16 bits."""
    return (values.view(torch.int32) & -0x10000).view(torch.float32)


# ---- other weights of A ----


def _exchanged(sample: Sample) -> Iterator[Hypothesis]:
    weight, layers = sample.weight, range(sample.a.config.layers)
    if weight.role in _EXCHANGED:
        role, cause = _EXCHANGED[weight.role]
        for rows in _orders(sample):
            yield moved(sample, cause, rows, "each the other's values", weight=Weight(role, weight.layer))
    if weight.role in NORM_ROLES:
        others = [Weight(role, layer) for layer in layers for role in NORM_ROLES if role is not Role.FINAL_NORM]
        for other in (Weight(Role.FINAL_NORM), *others):
            if other.role is not weight.role and other.layer != weight.layer:
                yield moved(sample, "norms-swapped", _same, f"the values of the {other}", weight=other)
    if weight.role in _VOCABULARY:
        other = Weight(Role.HEAD if weight.role is Role.TOKENS else Role.TOKENS)
        cause = "head-tied-by-mistake" if _head_is_embedding(sample) else "embedding-and-head-swapped"
        yield moved(sample, cause, _same, weight=other)


def _orders(sample: Sample) -> tuple[RowMap, ...]:
    """K and v may have been exchanged before or after the rows of k were reordered."""
    if sample.weight.role not in (Role.KEY, Role.VALUE):
        return (_same,)
    size = sample.a.config.head_dim
    return _same, partial(to_halves, size), partial(to_pairs, size)


def _head_is_embedding(sample: Sample) -> bool:
    """Whether B's head has the values of B's own embedding."""
    tokens = canonical_rows(sample.b, Weight(Role.TOKENS), sample.rows)
    return sample.weight.role is Role.HEAD and torch.equal(tokens.float(), sample.of_b.float())


def _other_layers(sample: Sample) -> Iterator[Hypothesis]:
    weight = sample.weight
    if weight.layer is not None:
        for layer in range(sample.a.config.layers):
            if layer != weight.layer:
                other = Weight(weight.role, layer)
                yield moved(sample, "tensor-of-another-layer", _same, f"layer {layer}", weight=other)


# ---- rows of the vocabulary ----


def _shifted(sample: Sample) -> Iterator[Hypothesis]:
    """From the first row that differs on; what came in at the end is anything."""
    if sample.weight.role in _VOCABULARY:
        first, last = first_row(sample), sample.shape[0] - 1
        lost = f"row {first} of {{places}} is lost, all behind it come one too early"
        added = f"row {first} of {{places}} is one too many, all behind it come one too late"
        yield moved(sample, "vocabulary-off-by-one", partial(_over, first, 1), lost, within=(0, last))
        yield moved(sample, "vocabulary-off-by-one", partial(_over, first, -1), added, within=(first + 1, last + 1))


def _over(first: int, step: int, rows: Tensor) -> Tensor:
    return torch.where(rows >= first, rows + step, rows)
