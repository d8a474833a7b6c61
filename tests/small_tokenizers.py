"""Small tokenizer.model files of both of Meta's kinds, made without llama_convert; the same on every machine."""

from __future__ import annotations

import base64
import functools
import io
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import sentencepiece

RANKS = 512
PIECES = 512
# Reached only as a whole: merging byte pairs takes "qx", the lowest rank in it, and ends at z qx j.
# 588 tokens of the real Llama 3 vocabulary are like this; a tokenizer.json without ignore_merges breaks them.
WHOLE_TOKEN = b"zqxj"
_WHOLE_TOKEN_RANKS = (b"qx", b"zq", b"xj", WHOLE_TOKEN)
_SYLLABLES = ("ba", "de", "go", "he", "ka", "la", "li", "me", "no", "ra", "so", "ta", "un", "ing", "str", "é")
_FOREIGN = ("größe", "naïve", "việc", "привет", "мир", "世界", "日本語", "مرحبا", "😀", "👩\u200d🚀", "½")


def small_tiktoken(path: Path, ranks: int = RANKS) -> Path:
    """A tokenizer.model of Llama 3's kind: the 256 bytes, then merges learnt from a generated text.

    A model needs ranks + 256 rows for it: the special tokens stand in no file.
    """
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(_tiktoken_ranks(ranks))]
    path.write_bytes(b"".join(lines))
    return path


def small_sentencepiece(path: Path, pieces: int = PIECES) -> Path:
    """A tokenizer.model of Llama 2's kind: byte pair merges with byte fallback, nothing normalised."""
    path.write_bytes(_sentencepiece_model(pieces))
    return path


@functools.cache
def _tiktoken_ranks(ranks: int) -> tuple[bytes, ...]:
    # As in Llama 3's file, where rank 0 is "!": a reader must not take a rank for the value of its byte.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    single = [bytes([value]) for value in [*printable, *sorted({*range(256)} - {*printable})]]
    counts = Counter(re.findall(r" ?\w+| ?[^\s\w]+|\s+", "\n".join(_text())))
    words = {tuple(bytes([value]) for value in word.encode()): count for word, count in counts.items()}
    merged = []
    for _ in range(ranks - len(single) - len(_WHOLE_TOKEN_RANKS)):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words.items():
            pairs.update(dict.fromkeys(pairwise(word), count))
        pair = max(pairs, key=lambda pair: (pairs[pair], pair))
        words = {_merge(word, pair): count for word, count in words.items()}
        merged.append(b"".join(pair))
    return (*single, *merged, *_WHOLE_TOKEN_RANKS)


def _merge(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    out: list[bytes] = []
    for token in word:
        if out and (out[-1], token) == pair:
            out[-1] += token
        else:
            out.append(token)
    return tuple(out)


@functools.cache
def _sentencepiece_model(pieces: int) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_text()),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=0.995,  # below one, so that some letters of the text need the byte fallback
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _text() -> list[str]:
    """Lines of invented words, numbers, indents and other scripts; the same on every machine."""
    source = random.Random(0)
    words = ["".join(source.choices(_SYLLABLES, k=source.randint(1, 4))) for _ in range(300)]
    words += [word.capitalize() for word in words[:60]]
    words += [*_FOREIGN, *_FOREIGN, *(str(source.randint(0, 9999)) for _ in range(40))]
    ends = [".", ",", "!", "?", ";", " (x)", "  ", "'s", '"', " = {", "}"]
    return [
        " " * source.choice([0, 0, 2, 4, 8]) + " ".join(source.choices(words, k=8)) + source.choice(ends)
        for _ in range(400)
    ]
