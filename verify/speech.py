"""Text for tokens and tokens for text, as a running model needs them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.errors import UsageError
from llama_convert.verify.tokenizer_judges import Judge

# After these a model has no more to say.
_ENDS = ("</s>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<step>")
# Code Llama 70B's, a piece like any other for SentencePiece.
_STEP = "<step>"
_UNFINISHED = "\ufffd"  # what half a character is decoded to
_LETTER = b"a"  # a token of every Llama's
# A character has up to four bytes: so many decoded bytes at the end may yet become one.
_LONGEST_START = 3


def end_tokens(checkpoint: Checkpoint, judge: Judge) -> frozenset[int]:
    """Every id at which the model ends: those its files name, and those that its tokenizer has for it."""
    said = checkpoint.tokenizer.conventions if checkpoint.tokenizer else None
    named, marks = set(said.ends) if said else set(), marking(judge)
    return frozenset(named | {marks[name] for name in _ENDS if name in marks})


def marking(judge: Judge) -> dict[str, int]:
    """Names and ids of the tokens that a rendered conversation may name."""
    step = token_id(judge, _STEP) if judge.pieces else None
    return dict(judge.special) | ({} if step is None else {_STEP: step})


def token_id(judge: Judge, name: str) -> int | None:
    """The id of the token with that name: a special one, or one that stands for just this text; None for none."""
    if name in judge.special:
        return judge.special[name]
    return next((number for number, token in judge.tokens.items() if token == name.encode()), None)


def parse_ends(names: Sequence[str], judge: Judge, rows: int) -> frozenset[int]:
    """The ids that are meant: numbers, or names of tokens.

    rows: of the embedding. Raises UsageError with all that are no tokens.
    """
    found = {name: int(name) if name.isdecimal() else token_id(judge, name) for name in names}
    problems = [f"{name!r} is no token" for name, number in found.items() if number is None]
    numbers = frozenset(number for number in found.values() if number is not None)
    problems += [f"{number} is no token: ids go from 0 to {rows - 1}" for number in sorted(numbers) if number >= rows]
    if problems:
        raise UsageError(
            "Nothing can end at what is no token",
            problems=problems,
            advice="Give an id, or a name as vocab --special lists them.",
        )
    return numbers


def encode_marked(judge: Judge, text: str, breaker: str = "") -> list[int]:
    """The ids of a text in which names of special tokens stand for the tokens, as in a rendered conversation.

    No begin token is put in front. A tokenizer that reads the names itself is given all of the text, as
    transformers does; for another, what is between two names is encoded by itself, as Meta's own code does.
    breaker: a character by which names are broken that are mere text; it is not part of the text.
    """
    opening = len(judge.encode([""])[0])
    if judge.reads_names and not breaker:
        return judge.encode([text])[0][opening:]
    marks = judge.special if judge.reads_names else marking(judge)
    parts = re.split(f"({_any_of(marks)})", text) if marks else [text]
    if judge.encode_marked is not None:
        marked = (f"{breaker}{part}{breaker}" if part in marks else part.replace(breaker, "") for part in parts)
        return judge.encode_marked("".join(marked), breaker)
    ids: list[int] = []
    for part in parts:
        if part in marks:
            ids.append(marks[part])
        elif part:
            ids += judge.encode([part.replace(breaker, "")])[0][opening:]
    return ids


def broken(judge: Judge, text: str, breaker: str) -> str:
    """The text with this character inside whatever is the name of a token there: see `encode_marked`."""
    marks = [name for name in marking(judge) if len(name) > 1]
    return re.sub(f"(?={_any_of(marks)})(.)", rf"\g<1>{breaker}", text, flags=re.DOTALL) if marks else text


def _any_of(names: Iterable[str]) -> str:
    """A pattern for the names, the longest first."""
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


@dataclass(slots=True)
class Transcript:
    """A text that grows with its tokens, and ends where a stop text comes up.

    before: the prompt's ids, which decide whether the first word gets a space. stops: texts that are not part of
    what is written, nor anything behind them. text: what is certain so far: half a character, or what may be the
    start of a stop text, is held back until `finish`.
    """

    judge: Judge
    before: Sequence[int]
    stops: Sequence[str] = ()
    text: str = ""
    stopped: bool = False
    # New ids whose text is not all certain, and how much of that text is taken. _opening: what is decoded in front
    # of them: the first word of a text loses its space.
    _ids: list[int] = field(default_factory=list)
    _taken: int = 0
    _opening: list[int] = field(default_factory=list)
    _letter: list[int] = field(default_factory=list)
    _textual: Collection[int] = ()
    _pending: str = ""

    def __post_init__(self) -> None:
        tokens = self.judge.tokens
        self._textual = tokens.keys() - set(self.judge.special.values())
        self._letter = [number for number, token in tokens.items() if token == _LETTER][:1]
        if any(token in self._textual for token in self.before):
            self._open()

    def _open(self) -> None:
        """Nothing is undecided: from now on words are decoded behind a letter."""
        self._opening, self._ids, self._taken = self._letter, [], len(self._letter)

    def add(self, token: int) -> str:
        """What the token makes certain, "" where that is nothing yet."""
        if token not in self._textual:
            return ""
        self._ids.append(token)
        self._pending += self._fresh(_LONGEST_START)
        return self._give(self._certain())

    def finish(self) -> str:
        """What was held back, where nothing follows any more."""
        if self.stopped:
            return ""
        self._pending += self._fresh(0)
        return self._give(len(self._pending))

    def _fresh(self, held: int) -> str:
        """The text behind what is taken, up to `held` characters that may be half of one."""
        text = self.judge.decode([*self._opening, *self._ids])
        unfinished = min(len(text) - len(text.rstrip(_UNFINISHED)), held)
        fresh = text[self._taken : len(text) - unfinished]
        self._taken += len(fresh)
        if not unfinished:
            self._open()
        return fresh

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
