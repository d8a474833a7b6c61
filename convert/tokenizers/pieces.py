"""How SentencePiece puts pieces together, said in the terms of a BPE model with a list of merges."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llama_convert.convert.tokenizers.sentencepiece import PieceKind, SentencePieceVocabulary


def piece_merges(vocabulary: SentencePieceVocabulary) -> Iterator[tuple[int, int]]:
    """Every way to put a piece together from two others, as (left id, right id), best first.

    SentencePiece makes the merge whose whole has the highest score, the leftmost of equals; the same comes
    of all splits of every piece in the order of the whole's score, then of the left id, then of the right.
    Only normal pieces take part: text never gives a control, byte or unknown piece, and a user-defined
    one is cut out before anything is merged. Llama 2 has about 61,000.
    Source: google/sentencepiece src/bpe_model.cc, SampleEncode.
    """
    normal = vocabulary.ids(PieceKind.NORMAL)
    for text in sorted(normal, key=lambda text: -vocabulary.pieces[normal[text]].score):
        cuts = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        yield from sorted((normal[left], normal[right]) for left, right in cuts if left in normal and right in normal)


def user_defined_pattern(vocabulary: SentencePieceVocabulary) -> str | None:
    """A regular expression for the user-defined pieces, the longest first; None where there are none.

    SentencePiece cuts them out of the text once spaces are ▁, and takes each as one piece whatever
    is around it. Added tokens of a tokenizer.json cannot do that: they are found before the dummy
    prefix is there, and every text between two of them would get a prefix of its own.
    """
    pieces = sorted(vocabulary.ids(PieceKind.USER_DEFINED), key=len, reverse=True)
    return "|".join(re.escape(piece) for piece in pieces) or None
