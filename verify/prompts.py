"""The token sequences that models are run on: what a comparison of logits can see depends on them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.errors import ConvertError
from llama_convert.verify.judges import open_judge

# Long enough that a wrong rotary factor shows: at 16 positions it changes next to nothing.
LONG, SHORT = 256, 16
# Distances at which RoPE must turn right. A frequency that is wrong by a factor is seen only where its angle
# has grown: stretched ones from about 1,000 positions on.
DISTANCES = (0, 64, 1024, 8192, 32768, 131072)
_NEIGHBOURS = 4

TEXT = """\
A llama is carried along a mountain road at night. Its keeper, Ilse, counts the bells: four on the harness,
one on the gate, none on the 2,400 sheep below. "We'll reach the pass before 6:15," she says; the wind says
otherwise. In the village they keep a book of such crossings, with the weather, the load in kilograms, and the
name of whoever came back. It isn't a long book. On its last page somebody has written a few lines that no one
there can read:

def crossing(load, slope=0.12):
    hours = [load * slope / k for k in range(1, 9)]
    return sum(hours) if load < 95.5 else None  # too heavy: wait for spring

Za úsvitu byl průsmyk prázdný. Les cloches sonnaient encore, très loin. Потом пошёл снег, и дорога исчезла.
Was it the same llama? The keeper laughed, tied the bells again, and wrote down the number of the day: 17,
of the month: 11, of the bells: 5. Then she shut the book, put out the lamp, and went to look for the sheep.
Most of them had found the barn by themselves; the others stood in the lee of the wall, warm, patient, white.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids, and the position at which each stands: rising, from 0; gaps are allowed."""

    name: str
    tokens: tuple[int, ...]
    positions: tuple[int, ...]


def prompts(a: Checkpoint, b: Checkpoint | None = None) -> tuple[Prompt, ...]:
    """A short prompt and a sweep over distances, of ids from the whole vocabulary, and a long prompt of text.

    The same on every run; shorter where the context is. The text is in the tokens of A's tokenizer, or more
    ids where nothing can run that. The sweep has a few neighbours at each distance: with gaps between them,
    as RoPE sees only distances, a few tokens show what else would take a prompt as long as the context.
    """
    sides = [a] if b is None else [a, b]
    rows, context = (min(getattr(side.config, size) for side in sides) for size in ("vocab_size", "context"))
    source = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(source.randrange(rows) for _ in range(count))

    places = tuple(_places(context))
    text = _text(a, rows) or ids(LONG)
    return (
        consecutive("short", ids(min(SHORT, context))),
        consecutive("long", text[: min(LONG, context)]),
        Prompt(name="distances", tokens=ids(len(places)), positions=places),
    )


def consecutive(name: str, tokens: tuple[int, ...]) -> Prompt:
    """A prompt as it is run, without gaps."""
    return Prompt(name=name, tokens=tokens, positions=tuple(range(len(tokens))))


def _places(context: int) -> Iterator[int]:
    """Neighbours at each distance, the last of them at the end of the context."""
    for start in sorted({min(distance, context - _NEIGHBOURS) for distance in DISTANCES}):
        yield from range(max(start, 0), start + _NEIGHBOURS)


def _text(checkpoint: Checkpoint, rows: int) -> tuple[int, ...] | None:
    """None: there is no tokenizer, or none that its library is here for."""
    try:
        found = open_judge(checkpoint).encode([TEXT])[0]
    except ConvertError:
        return None
    return tuple(found) if all(number < rows for number in found) else None
