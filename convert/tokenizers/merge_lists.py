"""Lists of merges as files have them, "left right", and how one is held against the list that must be there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest


def merge_texts(texts: Sequence[str], merges: Iterable[tuple[int, int]]) -> list[str]:
    """The merges as text, a space between both parts. texts: of every token, by id; none of them has a space."""
    return [f"{texts[left]} {texts[right]}" for left, right in merges]


def merge_differences(found: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """One sentence where the lists differ in length, one for the first merge that differs; none where equal."""
    if found == wanted:
        return []
    problems = []
    if len(found) != len(wanted):
        problems.append(f"it has {len(found):,} merges, its tokens demand {len(wanted):,}")
    pairs = enumerate(zip_longest(found, wanted))
    place, (one, other) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
    problems.append(f"merge {place} is {_quoted(one)}, its tokens demand {_quoted(other)}")
    return problems


def _quoted(merge: str | None) -> str:
    return "missing" if merge is None else repr(merge)
