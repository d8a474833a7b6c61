"""The tokenizer level: the same ids for the same text, the same token behind each id, the same way to chat."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.claims import read_claims
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.verify.chat import check_chat
from llama_convert.verify.corpus import corpus
from llama_convert.verify.judges import open_judge
from llama_convert.verify.report import LevelResult, judged, not_checked
from llama_convert.verify.tokenizer_judges import Judge, MissingLibrary

NAME = "tokenizer"
_SHOWN = 5
# As this tool and llama.cpp name rows that no token uses.
_FILLER = re.compile(rb"<\|reserved_special_token_\d+\|>|\[PAD\d+\]")
_BATCH = 4096
# Files of these kinds have exactly as many tokens as the embedding has rows.
_EXACT = (TokenizerKind.TIKTOKEN, TokenizerKind.SENTENCEPIECE, TokenizerKind.LLAMA2C)
Key = TypeVar("Key", int, str)


def check_tokenizer(a: Checkpoint, b: Checkpoint | None) -> LevelResult:
    """Whether B's tokenizer does what A's does; with A alone, whether it works and fits the vocabulary.

    Each runs in its own library. Where one is missing, the level was not checked, and says so.
    """
    if a.tokenizer is None:
        return not_checked(NAME, f"{a.path} has no tokenizer file")
    if b is not None and b.tokenizer is None:
        return judged(NAME, f"{a.tokenizer.kind.value} against none", (f"{b.path} has no tokenizer",))
    names = read_claims(b.path).special_tokens if b is not None else None
    try:
        judges = [open_judge(side, names) for side in (a, b) if side is not None]
    except MissingLibrary as error:
        return not_checked(NAME, f"{error.summary}: {error.advice}")
    sides = [(side, judge) for side, judge in zip((a, b), judges, strict=False) if side]
    chat = check_chat(sides)
    findings = [*(line for side, judge in sides for line in _misfits(side, judge)), *chat.findings]
    found = _alone(judges[0], findings) if b is None else compare_tokenizers(judges[0], judges[1], findings)
    spare = (line for side, judge in sides for line in _spare_rows(side, judge))
    return replace(
        found,
        figures=f"{found.figures}; chat template run" if chat.checked else found.figures,
        measures={**found.measures, "chat_templates": chat.checked},
        warnings=(*spare, *chat.warnings),
    )


def compare_tokenizers(a: Judge, b: Judge, findings: Sequence[str] = ()) -> LevelResult:
    """The level's result for two tokenizers, with what is already known to be wrong."""
    b = _without_fillers(b, a)
    texts = [text for text in corpus(a.words()) if not (a.names_special(text) or b.names_special(text))]
    found = [*findings, *_token_differences(a, b), *_special_differences(a, b), *_id_differences(a, b, texts)]
    figures = (
        f"{len(texts):,} texts, {len(a.tokens):,} tokens, {len(a.special)} of them special: "
        f"{a.library} against {b.library}"
    )
    return judged(NAME, figures, tuple(found))


def _without_fillers(b: Judge, a: Judge) -> Judge:
    """B without its names for rows behind A's last token: some formats must have one for every row.

    Not the other way round: what A names, B has to name too.
    """
    last = max(a.tokens, default=-1)
    fillers = {number for number, token in b.tokens.items() if number > last and _FILLER.fullmatch(token)}
    return replace(
        b,
        tokens={number: token for number, token in b.tokens.items() if number not in fillers},
        special={name: number for name, number in b.special.items() if number not in fillers},
    )


def _alone(judge: Judge, findings: list[str]) -> LevelResult:
    texts = [text for text in corpus(judge.words()) if not judge.names_special(text)]
    known = judge.tokens.keys()
    lost = [text for text, ids in _encoded(judge, texts) if not known >= set(ids)]
    findings = findings + [f"{text!r} has ids that stand for no token" for text in lost[:_SHOWN]]
    return judged(NAME, f"{len(texts):,} texts, {len(judge.tokens):,} tokens, run by {judge.library}", tuple(findings))


def _misfits(side: Checkpoint, judge: Judge) -> Iterator[str]:
    rows, last = side.config.vocab_size, max(judge.tokens, default=-1)
    if last >= rows:
        yield f"{judge.path}: token {last}, but the embedding has {rows} rows"
    if len(judge.tokens) < rows and side.tokenizer and side.tokenizer.kind in _EXACT:
        yield f"{judge.path}: {len(judge.tokens)} tokens for {rows} rows of the embedding"


def _spare_rows(side: Checkpoint, judge: Judge) -> Iterator[str]:
    """Padded vocabularies are common where the tokenizer's file has no say in their number."""
    rows = side.config.vocab_size
    if len(judge.tokens) < rows and side.tokenizer and side.tokenizer.kind not in _EXACT:
        yield f"{judge.path}: {rows - len(judge.tokens)} of {rows} rows of the embedding are no token's"


def _token_differences(a: Judge, b: Judge) -> list[str]:
    """Ids that stand for different bytes, or for nothing on one side."""
    lines = [
        f"token {number}: {_shown(a.tokens.get(number))} against {_shown(b.tokens.get(number))}"
        for number in _unequal(a.tokens, b.tokens)
    ]
    return _capped(lines, "tokens differ")


def _special_differences(a: Judge, b: Judge) -> list[str]:
    """Special tokens of A that B has not, or under another id. B may call more tokens special than A's file."""
    lines = [
        f"special token {name}: id {number} against {b.special.get(name, 'none')}"
        for name, number in a.special.items()
        if b.special.get(name) != number
    ]
    return _capped(lines, "special tokens differ")


def _id_differences(a: Judge, b: Judge, texts: Sequence[str]) -> list[str]:
    lines = [
        f"{text[:40]!r}: {_first_difference(left, right)}"
        for (text, left), (_, right) in zip(_encoded(a, texts), _encoded(b, texts), strict=True)
        if left != right
    ]
    return _capped(lines, f"of {len(texts):,} texts have other ids")


def _encoded(judge: Judge, texts: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """In batches: what `tokenizers` gives for a text is a hundred times as large as its ids."""
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        yield from zip(batch, judge.encode(batch), strict=True)


def _unequal(a: Mapping[Key, bytes], b: Mapping[Key, bytes]) -> list[Key]:
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _first_difference(a: list[int], b: list[int]) -> str:
    place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    window = slice(max(place - 1, 0), place + 4)
    return f"from position {place} ids {a[window]} against {b[window]}"


def _shown(token: bytes | None) -> str:
    return "none" if token is None else repr(token)


def _capped(lines: list[str], summary: str) -> list[str]:
    """A first line that counts, then a few examples."""
    return [f"{len(lines):,} {summary}", *islice(lines, _SHOWN)] if len(lines) > _SHOWN else lines
