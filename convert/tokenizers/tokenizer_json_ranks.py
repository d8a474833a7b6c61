"""A tokenizer.json of Llama 3's kind, proven to be what a tiktoken file says: byte-level BPE."""

from __future__ import annotations

from typing import Any

from llama_convert.convert.tokenizers.added import NamedVocabulary
from llama_convert.convert.tokenizers.byte_level import token_bytes
from llama_convert.convert.tokenizers.merge_lists import merge_differences, merge_texts
from llama_convert.convert.tokenizers.special_tokens import is_metas
from llama_convert.convert.tokenizers.tiktoken import PATTERN, TiktokenVocabulary, merges, missing_bytes
from llama_convert.convert.tokenizers.tokenizer_json_document import (
    Document,
    has,
    numbering_problems,
    plain_settings,
    refuse,
    steps,
)

KIND = "not the tokenizer of a Llama 3"


def is_byte_level(document: Document) -> bool:
    """Whether the file works on bytes written as printable characters."""
    found = [*steps(document.pre_tokenizer, "pretokenizers"), *steps(document.decoder, "decoders")]
    return any(has(step, type="ByteLevel") for step in found)


def read_ranks(document: Document) -> NamedVocabulary:
    """The vocabulary of a byte-level tokenizer.json, and the names of its added tokens.

    Proven: the text is cut by Llama 3's pattern and not changed before; the tokens are bytes with the ids from
    0, every single byte among them; the merges are those that follow from the ids; whole words are looked up
    first. Not looked at: which tokens are put before and behind a text.
    Raises CheckpointError with every finding.
    """
    count = _ordinary(document)
    tokens, problems = _tokens(document.texts[:count])
    problems = [*_step_problems(document), *_setting_problems(document), *problems, *_added_problems(document, count)]
    refuse(document.path, problems, KIND)
    vocabulary = TiktokenVocabulary(tokens=tokens)
    wanted = merge_texts(document.texts, merges(vocabulary))
    refuse(document.path, merge_differences(list(document.merges), wanted), KIND)
    names = tuple(token.text for token in document.added)
    plain = frozenset(token.text for token in document.added if not (token.special or is_metas(token.text)))
    return NamedVocabulary(vocabulary=vocabulary, special=names, plain=plain)


def _ordinary(document: Document) -> int:
    """How many tokens are no added ones: some libraries list those behind them in the model once more."""
    names = {token.id: token.text for token in document.added}
    count = len(document.texts)
    while count and names.get(count - 1) == document.texts[count - 1]:
        count -= 1
    return count


def _tokens(texts: tuple[str, ...]) -> tuple[tuple[bytes, ...], list[str]]:
    """The bytes of every text, and what is wrong with them."""
    tokens, problems = [], []
    for number, text in enumerate(texts):
        try:
            tokens.append(token_bytes(text))
        except ValueError as error:
            problems.append(f"token {number}: {error}")
    if not problems:
        problems += missing_bytes(set(tokens))
    return tuple(tokens), problems


def _step_problems(document: Document) -> list[str]:
    problems = []
    if document.normalizer is not None:
        problems.append(f"it changes text before cutting it ({document.normalizer.get('type')})")
    cutting = steps(document.pre_tokenizer, "pretokenizers")
    patterns = [_pattern(step) for step in cutting if has(step, type="Split")]
    if patterns != [PATTERN]:
        problems.append(f"it cuts text by {_quoted(patterns)}, which is not Llama 3's pattern")
    elif len(cutting) != 2 or not (_is_cut(cutting[0]) and _is_bytes(cutting[1])):
        problems.append("its pre_tokenizer is not one cut and then bytes, as Llama 3's is")
    if not has(document.decoder or {}, type="ByteLevel"):
        problems.append("its decoder is not the one from characters to bytes")
    return problems


def _pattern(step: Any) -> str:
    pattern = step.get("pattern")
    return str(pattern.get("Regex", pattern)) if isinstance(pattern, dict) else str(pattern)


def _quoted(patterns: list[str]) -> str:
    return " and ".join(repr(pattern) for pattern in patterns) or "no pattern of its own"


def _is_cut(step: Any) -> bool:
    return has(step, type="Split", behavior="Isolated", invert=False, pattern={"Regex": PATTERN})


def _is_bytes(step: Any) -> bool:
    return has(step, type="ByteLevel", add_prefix_space=False, use_regex=False)


def _setting_problems(document: Document) -> list[str]:
    problems = plain_settings(document, byte_fallback=False)
    if not document.model.get("ignore_merges"):
        problems.append(
            "its model has no ignore_merges, which Llama 3 has and libraries before April 2024 lost: "
            'if the file is Llama 3\'s, add "ignore_merges": true to its model'
        )
    return problems


def _added_problems(document: Document, count: int) -> list[str]:
    problems = [
        f"the added token {token.text!r} has the id {token.id} of an ordinary token"
        for token in document.added
        if token.id < count
    ]
    return problems + numbering_problems(document, count)
