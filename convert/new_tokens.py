"""Tokens by their text: those that a tokenizer has, and new ones at the ids behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from llama_convert.convert.errors import UsageError, counted
from llama_convert.convert.tokenizers.changes import token_numbers
from llama_convert.convert.tokenizers.problems import capped
from llama_convert.convert.tokens import Tokens
from llama_convert.convert.vocabulary import NewToken


def new_tokens(tokens: Tokens, texts: Sequence[str], *, special: bool, option: str) -> tuple[NewToken, ...]:
    """Tokens with these texts, with the ids behind the last token of the source.

    option: what the user gave them with. Raises UsageError with every text that cannot be a new token's, and with
    ids that are taken: the configuration uses them, though no token has them.
    """
    first = tokens.named.size
    problems = list(_bad_texts(tokens, texts))
    taken = [f"id {number} is taken: {use}, and no token has it" for number, use in _uses_without_token(tokens)]
    if texts and (problems or taken):
        advice = "Correct the configuration beside the weights first." if taken else "Give other names."
        problems += taken
        raise UsageError(
            f"{option}: {problems[0] if len(problems) == 1 else counted(len(problems), 'problem')}",
            problems=capped(problems) if len(problems) > 1 else (),
            advice=advice,
        )
    return tuple(NewToken(id=first + place, text=text, special=special) for place, text in enumerate(texts))


def _bad_texts(tokens: Tokens, texts: Sequence[str]) -> Iterator[str]:
    known = token_numbers(tokens.named)
    for text, count in Counter(texts).items():
        if not text.strip() or not text.isprintable():
            yield f"{text!r} is no name for a token"
        elif (found := known.get(text)) is not None:
            yield f"{text!r} exists already, with id {found}"
        elif count > 1:
            yield f"{text!r} is given twice"


def _uses_without_token(tokens: Tokens) -> Iterator[tuple[int, str]]:
    """Ids behind the last token that the configuration uses all the same."""
    uses, size = tokens.conventions, tokens.named.size
    named = {"begins texts": uses.begin, "ends texts": uses.end, "pads": uses.pad}
    yield from ((number, f"it {task}") for task, number in named.items() if number is not None and number >= size)
    yield from ((number, "it ends answers") for number in uses.ends if number >= size and number != uses.end)


def shown(tokens: Tokens, number: int) -> str:
    """`<pad> (32000)`."""
    return f"{tokens.text(number)} ({number})"
