"""A vocabulary with more tokens than its files have: new ones at their ids, and names for ids without a token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice

from llama_convert.convert.errors import UsageError, counted
from llama_convert.convert.tokenizers.added import NamedVocabulary
from llama_convert.convert.tokenizers.byte_level import byte_text
from llama_convert.convert.tokenizers.problems import capped
from llama_convert.convert.tokenizers.sentencepiece import SPACE, Piece, PieceKind, SentencePieceVocabulary
from llama_convert.convert.tokenizers.tiktoken import TiktokenVocabulary
from llama_convert.convert.vocabulary import NewToken


def token_numbers(named: NamedVocabulary) -> dict[str, int]:
    """The id of every token by its text, and by what tokenizer.json writes for it (`Ġthe`, `▁the`).

    Tokens that are no text by themselves, being parts of a character, are there in the second form alone.
    Cost: 0.2 s for Llama 3.
    """
    vocabulary = named.vocabulary
    if isinstance(vocabulary, SentencePieceVocabulary):
        written = vocabulary.ids()
        return {text.replace(SPACE, " "): number for text, number in written.items()} | written
    written = {byte_text(token): number for number, token in enumerate(vocabulary.tokens)}
    texts = ((token, token.decode(errors="replace"), number) for number, token in enumerate(vocabulary.tokens))
    plain = {text: number for token, text, number in texts if text.encode() == token}
    first = len(vocabulary.tokens)
    return written | plain | {name: first + place for place, name in enumerate(named.special)}


def with_tokens(named: NamedVocabulary, tokens: Sequence[NewToken]) -> NamedVocabulary:
    """The vocabulary with these tokens behind its own; ids between them that have no token get a name.

    Raises UsageError with every finding: a text or an id that is taken, an empty text, a special token with a
    space in it where spaces are ▁.
    """
    numbers = token_numbers(named)
    if problems := list(_problems(named, numbers, tokens)):
        raise UsageError(
            f"these new tokens do not fit the tokenizer ({counted(len(problems), 'problem')})",
            problems=capped(problems),
            advice="Choose other names, and ids behind those that are taken.",
        )
    wanted = {token.id: token for token in tokens}
    names = _reserved_names({*numbers, *(token.text for token in tokens)})
    ids = range(named.size, max(wanted, default=-1) + 1)
    return _extended(named, [wanted.get(i) or NewToken(id=i, text=next(names), special=True) for i in ids])


def with_fillers(named: NamedVocabulary, size: int) -> NamedVocabulary:
    """The vocabulary with reserved special tokens behind its own, `size` tokens altogether.

    For files that have a token for every row of the embedding.
    """
    if size <= named.size:
        return named
    names = islice(_reserved_names(token_numbers(named)), size - named.size)
    return _extended(named, [NewToken(id=i, text=name, special=True) for i, name in enumerate(names, named.size)])


def with_pad(named: NamedVocabulary, pad: int | None) -> NamedVocabulary:
    """The vocabulary that pads with this id, where it has a place to say so: SentencePiece, for control pieces alone.

    The begin and end pieces are not named a second time.
    """
    vocabulary = named.vocabulary
    if not isinstance(vocabulary, SentencePieceVocabulary) or pad is None or not 0 <= pad < len(vocabulary.pieces):
        return named
    if pad in (vocabulary.begin, vocabulary.end) or vocabulary.pieces[pad].kind is not PieceKind.CONTROL:
        return named
    return replace(named, vocabulary=replace(vocabulary, pad=pad))


def _extended(named: NamedVocabulary, tokens: Sequence[NewToken]) -> NamedVocabulary:
    """The vocabulary with these tokens, whose ids are those behind its own."""
    vocabulary = named.vocabulary
    if isinstance(vocabulary, SentencePieceVocabulary):
        return replace(named, vocabulary=replace(vocabulary, pieces=(*vocabulary.pieces, *map(_piece, tokens))))
    return replace(
        named,
        special=(*named.special, *(token.text for token in tokens)),
        plain=named.plain | {token.text for token in tokens if not token.special},
    )


def _piece(token: NewToken) -> Piece:
    """Text gives a user-defined piece wherever it stands, a control piece nowhere."""
    if token.special:
        return Piece(text=token.text, score=0.0, kind=PieceKind.CONTROL)
    return Piece(text=token.text.replace(" ", SPACE), score=0.0, kind=PieceKind.USER_DEFINED)


def _problems(named: NamedVocabulary, numbers: Mapping[str, int], tokens: Sequence[NewToken]) -> Iterator[str]:
    texts, ids = [token.text for token in tokens], [token.id for token in tokens]
    spaced = not isinstance(named.vocabulary, TiktokenVocabulary)
    for place, token in enumerate(tokens):
        if not token.text.strip():
            yield f"the token of id {token.id} has an empty name"
        if token.text in numbers:
            yield f"{token.text!r} is token {numbers[token.text]} already"
        if token.text in texts[:place]:
            yield f"{token.text!r} is given twice"
        if token.id < named.size or token.id in ids[:place]:
            yield f"{token.text!r} has the id {token.id}, which is taken"
        if spaced and token.special and " " in token.text:
            yield f"{token.text!r} is special and has a space in it: this tokenizer's pieces have none"


def _reserved_names(taken: Mapping[str, int] | set[str]) -> Iterator[str]:
    names = (f"<|reserved_special_token_{number}|>" for number in count())
    return (name for name in names if name not in taken)
