"""A tokenizer.json of Llama 1's and 2's kind, proven to be what a SentencePiece model says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from llama_convert.convert.tokenizers.added import NamedVocabulary
from llama_convert.convert.tokenizers.merge_lists import merge_differences, merge_texts
from llama_convert.convert.tokenizers.pieces import piece_merges, user_defined_pattern
from llama_convert.convert.tokenizers.sentencepiece import (
    BYTE_PIECES,
    SPACE,
    Piece,
    PieceKind,
    SentencePieceVocabulary,
    damage,
    spaced,
)
from llama_convert.convert.tokenizers.tokenizer_json_document import (
    Document,
    Json,
    has,
    numbering_problems,
    plain_settings,
    refuse,
    steps,
)

KIND = "not the tokenizer of a Llama 1 or 2"
UNKNOWN = "<unk>"
SPACES_LAST = -1e9  # the score of pieces of nothing but spaces in Llama 1's and 2's own file
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
DECODER: tuple[Json, ...] = (
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
)
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
PREPEND_SCHEMES = {"always": True, "first": True, "never": False}
ALTERNATIVE = re.compile(r"(?:\\.|[^\\|])+", re.DOTALL)


def is_pieces(document: Document) -> bool:
    """Whether the file writes spaces as ▁."""
    found = [*steps(document.normalizer, "normalizers"), *steps(document.pre_tokenizer, "pretokenizers")]
    return any(has(step, type="Metaspace") or has(step, content=SPACE) or has(step, prepend=SPACE) for step in found)


def read_pieces(document: Document) -> NamedVocabulary:
    """The SentencePiece vocabulary of a tokenizer.json whose BPE model has spaces written as ▁.

    Scores are not in the file. They are numbered as SentencePiece's trainer does, 0 for the first normal piece
    and 1 less for each after it, or so but for pieces of nothing but spaces, which Llama 2's file has last;
    proven: with these scores the merges are exactly the file's, the splits of one piece in the order of the
    ids, as we write them, or of their lengths, as transformers 4 and 5 do.
    Added tokens become control pieces where they are special, else user-defined ones. What they are for:
    begin is the token that the file puts before a text, else <s>; end and pad are </s> and <pad>.
    Not the same as in the file, by the nature of SentencePiece: a space at the start of a text where the file
    has a Metaspace step, which then adds no other; and text behind a user-defined piece, which gets no ▁ of
    its own. Raises CheckpointError with every finding.
    """
    add_dummy_prefix, problems = _prefix(document)
    pattern, more = _pattern(document)
    user_defined = set(_alternatives(pattern))
    pieces = _pieces(document, user_defined)
    byte_fallback = bool(document.model.get("byte_fallback"))
    problems += [*more, *_setting_problems(document, pattern), *_added_problems(document)]
    problems += [*_decoder_problems(document, add_dummy_prefix), *damage(pieces, byte_fallback), *spaced(pieces)]
    refuse(document.path, problems, KIND)
    plain = _vocabulary(document, pieces, add_dummy_prefix=add_dummy_prefix, byte_fallback=byte_fallback)
    if pattern is not None and user_defined_pattern(plain) != pattern:
        refuse(document.path, [f"it cuts text by {pattern!r}, which is not a choice of its own tokens"], KIND)
    return NamedVocabulary(vocabulary=_scored(document, plain), special=())


def _prefix(document: Document) -> tuple[bool, list[str]]:
    """Whether one more space is put before a text, and what is unlike SentencePiece in how spaces become ▁."""
    changes = steps(document.normalizer, "normalizers")
    cutting = next(iter(steps(document.pre_tokenizer, "pretokenizers")), {})
    if changes in ([PREPEND, REPLACE], [REPLACE]) and not has(cutting, type="Metaspace"):
        return len(changes) == 2, []
    scheme = PREPEND_SCHEMES.get(str(cutting.get("prepend_scheme")))
    if not changes and scheme is not None and has(cutting, type="Metaspace", replacement=SPACE, split=False):
        return scheme, []
    return True, [f"it changes text in another way than a SentencePiece model: {[*changes, cutting]!r:.300}"]


def _pattern(document: Document) -> tuple[str | None, list[str]]:
    """The regular expression that cuts user-defined pieces out, where the file has one."""
    cutting = steps(document.pre_tokenizer, "pretokenizers")
    if cutting and has(cutting[0], type="Metaspace"):
        cutting = cutting[1:]
    if not cutting:
        return None, []
    found = cutting[0].get("pattern")
    pattern = found.get("Regex") if isinstance(found, dict) else None
    plain = len(cutting) == 1 and has(cutting[0], type="Split", behavior="Isolated", invert=False)
    if not plain or not isinstance(pattern, str):
        return None, [f"it cuts text before it merges: {document.pre_tokenizer!r:.200}"]
    return pattern, []


def _alternatives(pattern: str | None) -> Iterator[str]:
    """The texts that a choice of texts, escaped and joined by `|`, is made of."""
    for found in ALTERNATIVE.findall(pattern or ""):
        yield re.sub(r"\\(.)", r"\1", found, flags=re.DOTALL)


def _setting_problems(document: Document, pattern: str | None) -> list[str]:
    problems = plain_settings(document, ignore_merges=pattern is not None)
    if not document.model.get("byte_fallback") and not document.model.get("fuse_unk"):
        problems.append("its model gives every unknown character of a row a token of its own")
    return problems


def _added_problems(document: Document) -> list[str]:
    texts = dict(enumerate(document.texts))
    moved = [token for token in document.added if texts.get(token.id, token.text) != token.text]
    problems = [f"the added token {token.text!r} has the id {token.id} of {texts[token.id]!r}" for token in moved]
    return problems + numbering_problems(document, len(texts))


def _decoder_problems(document: Document, add_dummy_prefix: bool) -> list[str]:
    wanted = [*DECODER, STRIP] if add_dummy_prefix else [*DECODER]
    found = steps(document.decoder, "decoders")
    return [] if found == wanted else [f"it writes tokens as text in another way than SentencePiece: {found!r:.300}"]


def _pieces(document: Document, user_defined: set[str]) -> list[Piece]:
    """Every token as a piece, numbered as the trainer numbers them."""
    behind = [token.text for token in document.added if token.id >= len(document.texts)]
    special = {token.text: token.special for token in document.added}
    unknown = document.model.get("unk_token") or UNKNOWN
    kinds = [_kind(text, special, user_defined, unknown) for text in (*document.texts, *behind)]
    first = next((i for i, kind in enumerate(kinds) if kind is PieceKind.NORMAL), 0)
    return [
        Piece(text=text, score=float(first - i) if kind is PieceKind.NORMAL else 0.0, kind=kind)
        for i, (text, kind) in enumerate(zip((*document.texts, *behind), kinds, strict=True))
    ]


def _kind(text: str, special: dict[str, bool], user_defined: set[str], unknown: str) -> PieceKind:
    if text == unknown:
        return PieceKind.UNKNOWN
    if text in user_defined or not special.get(text, True):
        return PieceKind.USER_DEFINED
    if text in special:
        return PieceKind.CONTROL
    return PieceKind.BYTE if text in BYTE_TEXTS else PieceKind.NORMAL


BYTE_TEXTS = frozenset(BYTE_PIECES)


def _vocabulary(
    document: Document, pieces: Sequence[Piece], *, add_dummy_prefix: bool, byte_fallback: bool
) -> SentencePieceVocabulary:
    control = {piece.text: i for i, piece in enumerate(pieces) if piece.kind is PieceKind.CONTROL}
    unknown = next(i for i, piece in enumerate(pieces) if piece.kind is PieceKind.UNKNOWN)
    return SentencePieceVocabulary(
        pieces=tuple(pieces),
        add_dummy_prefix=add_dummy_prefix,
        byte_fallback=byte_fallback,
        unknown=unknown,
        begin=control.get(_begin(document), control.get("<s>")),
        end=control.get("</s>"),
        pad=control.get("<pad>"),
    )


def _begin(document: Document) -> str:
    """The token that the file puts before a text; empty where it puts none."""
    for step in steps(document.post_processor, "processors"):
        first = (step.get("single") or [{}])[0]
        if has(step, type="TemplateProcessing") and isinstance(first, dict) and "SpecialToken" in first:
            return str(first["SpecialToken"].get("id"))
    return ""


def _scored(document: Document, numbered: SentencePieceVocabulary) -> SentencePieceVocabulary:
    """The vocabulary with the scores that explain the file's merges. Refused where none do."""
    found = list(document.merges)
    for vocabulary in (numbered, _spaces_last(numbered)):
        merges = list(piece_merges(vocabulary))
        if any(found == wanted for wanted in _orders(vocabulary, merges)):
            return vocabulary
    texts = [piece.text for piece in numbered.pieces]
    refuse(document.path, merge_differences(found, merge_texts(texts, piece_merges(numbered))), KIND)
    return numbered


def _spaces_last(numbered: SentencePieceVocabulary) -> SentencePieceVocabulary:
    pieces = (
        replace(piece, score=SPACES_LAST) if piece.kind is PieceKind.NORMAL and not piece.text.strip(SPACE) else piece
        for piece in numbered.pieces
    )
    return replace(numbered, pieces=tuple(pieces))


def _orders(vocabulary: SentencePieceVocabulary, merges: list[tuple[int, int]]) -> Iterator[list[str]]:
    """The merges in the order of the ids, in transformers 4's and in transformers 5's.

    SentencePiece knows no order among the splits of one piece: it makes the leftmost merge.
    """
    texts = [piece.text for piece in vocabulary.pieces]
    scores = {piece.text: piece.score for piece in vocabulary.pieces}

    def by_length(merge: tuple[int, int]) -> tuple[float, int, int]:
        left, right = texts[merge[0]], texts[merge[1]]
        return scores[left + right], len(left), len(right)

    def shortest_first(merge: tuple[int, int]) -> tuple[float, int, int]:
        score, left, right = by_length(merge)
        return -score, left, right

    yield merge_texts(texts, merges)
    yield merge_texts(texts, sorted(merges, key=by_length, reverse=True))
    yield merge_texts(texts, sorted(merges, key=shortest_first))
