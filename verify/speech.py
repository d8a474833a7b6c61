"""Text for tokens and tokens for text, as a running model needs them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.verify.tokenizer_judges import Judge

# After these a model has no more to say.
_ENDS = ("</s>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<step>")
_UNFINISHED = "\ufffd"  # what half a character is decoded to
# Tokens before the newest that are decoded with them: the first of a text may lose its space.
_CONTEXT = 6


def end_tokens(checkpoint: Checkpoint, judge: Judge) -> frozenset[int]:
    """Every id at which the model ends: those its files name, and those that its tokenizer has for it."""
    said = checkpoint.tokenizer.conventions if checkpoint.tokenizer else None
    named = set(said.ends) if said else set()
    return frozenset(named | {judge.special[name] for name in _ENDS if name in judge.special})


def encode_marked(judge: Judge, text: str) -> list[int]:
    """The ids of a text in which names of special tokens stand for the tokens, as in a rendered conversation.

    What is between two of them is encoded by itself, as Meta's own code does; no begin token is put in front.
    """
    names = sorted(judge.special, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]
    opening = judge.encode([""])[0]
    ids: list[int] = []
    for part in parts:
        if part in judge.special:
            ids.append(judge.special[part])
        elif part:
            ids += judge.encode([part])[0][len(opening) :]
    return ids


@dataclass(slots=True)
class Transcript:
    """A text that grows with its tokens, and ends where a stop text comes up.

    stops: texts that are not part of what is written, nor anything behind them. text: what is certain so far:
    half a character, or what may be the start of a stop text, is held back until `finish`.
    """

    judge: Judge
    before: Sequence[int]
    stops: Sequence[str] = ()
    text: str = ""
    stopped: bool = False
    _ids: list[int] = field(default_factory=list)
    _done: int = 0
    _pending: str = ""

    def add(self, token: int) -> str:
        """What the token makes certain, "" where that is nothing yet."""
        self._ids.append(token)
        fresh = self._fresh()
        if fresh.endswith(_UNFINISHED):
            return ""
        self._done = len(self._ids)
        self._pending += fresh
        return self._give(self._certain())

    def finish(self) -> str:
        """What was held back, where nothing follows any more."""
        if not self.stopped:
            self._pending += self._fresh()
            self._done = len(self._ids)
        return self._give(0 if self.stopped else len(self._pending))

    def _fresh(self) -> str:
        """The text of the tokens behind those that are done."""
        ids = [*self.before[-_CONTEXT:], *self._ids]
        done = len(ids) - (len(self._ids) - self._done)
        start = max(done - _CONTEXT, 0)
        return self._decoded(ids[start:])[len(self._decoded(ids[start:done])) :]

    def _decoded(self, ids: Sequence[int]) -> str:
        special = set(self.judge.special.values())
        return self.judge.decode([number for number in ids if number not in special])

    def _certain(self) -> int:
        """How much of the pending text no stop text can take back."""
        places = [place for stop in self.stops if (place := self._pending.find(stop)) >= 0]
        if places:
            self.stopped = True
            return min(places)
        longest = max(map(len, self.stops), default=0)
        for start in range(max(len(self._pending) - longest + 1, 0), len(self._pending)):
            if any(stop.startswith(self._pending[start:]) for stop in self.stops):
                return start
        return len(self._pending)

    def _give(self, length: int) -> str:
        given, self._pending = self._pending[:length], "" if self.stopped else self._pending[length:]
        self.text += given
        return given
