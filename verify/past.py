"""What a model has been given so far, kept so that only what is new goes through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor

from llama_convert.verify.decoding import Cache, hold_still, leading, new_cache, next_logits, spread
from llama_convert.verify.memory import places_for
from llama_convert.verify.model import Model

# Stands in the empty places in front of a prompt that is shorter than those beside it.
_EMPTY = -1


@dataclass(slots=True)
class Past:
    """The ids that a model has read and written, with their keys and values. Empty at first.

    Who gives the same one to `Llama.generate` again and again has the model run only over what is new: the next turn
    of a conversation, another question about one text. As far as a prompt begins like the last one and its answer
    nothing is run. What is written is the same.
    Memory: the keys and values of all places, at most twice as many as were ever asked for.
    """

    # _rows: the ids of each sequence, by their places in the cache.
    _model: Model | None = None
    _cache: Cache | None = None
    _rows: list[list[int]] = field(default_factory=list)

    def read(self, model: Model, prompts: Sequence[Sequence[int]], capacity: int, *, compiled: bool) -> Tensor:
        """The logits behind each prompt, (B, vocab), float32. Prompts that are the same go through the model once.

        capacity: places of each to have room for. compiled: whether `go_on` will be.
        Raises SpaceError where there is no memory for them.
        """
        different = list(dict.fromkeys(map(tuple, prompts)))
        owners = [different.index(tuple(prompt)) for prompt in prompts]
        longest = max(map(len, different))
        rows = [[_EMPTY] * (longest - len(prompt)) + list(prompt) for prompt in different]
        start = self._begun(model, rows)
        cache = self._room(model, len(prompts), capacity, start)
        if compiled:
            hold_still(model, cache)
        # What is behind is written over from here on: whoever interrupts this must not find it among what is held.
        self._model, self._cache, self._rows = model, cache, [row[:start] for row in rows]
        cache.pads[: len(rows)] = torch.tensor([row.count(_EMPTY) for row in rows])
        new = torch.tensor([row[start:] for row in rows], device=model.device).clamp(min=0)
        logits = next_logits(model, leading(cache, len(rows)), new, start)
        if len(rows) < len(prompts):
            self._rows = []
            spread(cache, owners, longest)
            logits = logits[owners]
        self._rows = [list(rows[owner]) for owner in owners]
        return logits

    def go_on(self, tokens: Tensor, *, compiled: bool) -> Tensor:
        """The logits behind one more token of each sequence, (B,). compiled: as `next_logits` has it."""
        assert self._model is not None
        assert self._cache is not None
        given = tokens.tolist()
        logits = next_logits(self._model, self._cache, tokens[:, None], len(self._rows[0]), compiled=compiled)
        for row, token in zip(self._rows, given, strict=True):
            row.append(token)
        return logits

    def _begun(self, model: Model, rows: Sequence[Sequence[int]]) -> int:
        """In how many places, from the first on, all is as it was. The last is run in any case, for its logits."""
        if model is not self._model or len(rows) != len(self._rows):
            return 0
        pairs = zip(zip(*rows, strict=True), zip(*self._rows, strict=False), strict=False)
        return min(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)), len(rows[0]) - 1)

    def _room(self, model: Model, sequences: int, capacity: int, kept: int) -> Cache:
        """A cache that is large enough, with what is in the first places.

        One that is too small is followed by one twice as large: few are made, and torch compiles for each anew.
        """
        cache = self._cache
        known = cache is not None and model is self._model and len(cache.pads) == sequences
        if cache is not None and known and cache.capacity >= capacity:
            return cache
        twice = min(2 * cache.capacity, model.config.context) if cache is not None and known else 0
        places = places_for(model, sequences, capacity, twice, cache.nbytes if cache is not None else 0)
        old = [*cache.keys, *cache.values] if cache is not None and kept else []
        cache, self._cache, self._rows = None, None, []
        return new_cache(model, [places] * sequences, places, _one_by_one(old), kept)


def _one_by_one(tensors: list[Tensor]) -> Iterator[Tensor]:
    """Each, the list letting go of it: there is not memory for all of the old and all of the new."""
    while tensors:
        yield tensors.pop(0)
