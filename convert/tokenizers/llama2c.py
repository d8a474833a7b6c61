"""llama2.c's tokenizer.bin: the scores and pieces of a Llama 2 tokenizer, as its C programs read them.

Source: karpathy/llama2.c tokenizer.py (export) and run.c (build_tokenizer, encode).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from struct import calcsize, error, pack, unpack_from

from llama_convert.convert.errors import CheckpointError, UsageError, counted
from llama_convert.convert.tokenizers.problems import capped, read_bytes
from llama_convert.convert.tokenizers.sentencepiece import (
    BYTE_PIECES,
    SPACE,
    Piece,
    PieceKind,
    SentencePieceVocabulary,
    damage,
    spaced,
)

# The C programs have these ids in their code, and byte pieces from 3 on.
UNKNOWN, BEGIN, END, FIRST_BYTE = 0, 1, 2, 3
MARKED = {BEGIN: "\n<s>\n", END: "\n</s>\n"}
NAMES = {UNKNOWN: "<unk>", BEGIN: "<s>", END: "</s>"}
NEVER = -1e10  # the score that no merge has to beat, in run.c and runq.c: a piece that has it is never made of others
ENTRY = "<fI"  # score, length of the piece in bytes
FIXED = {
    UNKNOWN: PieceKind.UNKNOWN,
    BEGIN: PieceKind.CONTROL,
    END: PieceKind.CONTROL,
} | {FIRST_BYTE + value: PieceKind.BYTE for value in range(256)}


def write_tokenizer_bin(path: Path, vocabulary: SentencePieceVocabulary) -> None:
    """Write the tokenizer.bin that llama2.c's run.c reads.

    Pieces have spaces for ▁, and the begin and end token a line of their own. Exact:
    `read_tokenizer_bin` gives the vocabulary back. Scores are floats of 4 bytes, as they were; control pieces
    get the one that is never merged to, so that no text gives them.
    Raises UsageError with every reason why the C programs would give other ids: they know no user-defined
    piece, the ids of <s> and </s> are 1 and 2, the bytes' 3 to 258, a piece of one character is found whatever
    its score is, and every text that is not empty gets a space in front.
    """
    problems = unlike_llama_2(vocabulary)
    if problems:
        raise UsageError(
            f"This tokenizer cannot be written as llama2.c's tokenizer.bin ({counted(len(problems), 'problem')}).",
            problems=capped(problems),
            advice="llama2.c runs Llama 2's tokenizer, and others that were trained like it.",
        )
    entries = [(_score(i, piece), _bytes(i, piece.text)) for i, piece in enumerate(vocabulary.pieces)]
    longest = max(len(text) for _, text in entries)
    packed = (pack(ENTRY, score, len(text)) + text for score, text in entries)
    path.write_bytes(pack("<I", longest) + b"".join(packed))


def read_tokenizer_bin(path: Path, rows: int) -> SentencePieceVocabulary:
    """The vocabulary of a llama2.c tokenizer.bin.

    rows: of the embedding; the file has no count. What a piece is for is not in the file either: the C
    programs have it in their code, so ids 0 to 258 are unknown, begin, end and the bytes, with the texts
    that they must have, and all behind them normal, but for those with the score of control pieces.
    Raises CheckpointError with every finding: not as many entries as rows, a wrong length of the longest, other
    texts in the first 259 places, pieces given twice. UsageError where there is no file.
    """
    data = read_bytes(path)
    entries = _entries(path, data, rows)
    texts = [text for _, text in entries]
    problems = _wrong_longest(data, texts) + _wrong_places(texts)
    pieces = tuple(_piece(i, score, text) for i, (score, text) in enumerate(entries))
    _refuse(path, problems or [*damage(pieces, True), *spaced(pieces)])
    return SentencePieceVocabulary(
        pieces=pieces,
        add_dummy_prefix=True,
        byte_fallback=True,
        unknown=UNKNOWN,
        begin=BEGIN,
        end=END,
        pad=None,
    )


def unlike_llama_2(vocabulary: SentencePieceVocabulary) -> list[str]:
    """Every reason why llama2.c's programs would give other ids than this tokenizer."""
    findings = {
        "it puts no space before a text": not vocabulary.add_dummy_prefix,
        "it has no byte pieces": not vocabulary.byte_fallback,
    }
    problems = [finding for finding, holds in findings.items() if holds]
    for i, piece in enumerate(vocabulary.pieces):
        kind = FIXED.get(i, PieceKind.NORMAL)
        if i not in FIXED and piece.kind is PieceKind.CONTROL and len(piece.text) > 1:
            continue  # written with a score that no text reaches
        if piece.kind is not kind or piece.text != NAMES.get(i, piece.text):
            problems.append(f"piece {i}, {piece.text!r}, is {piece.kind.name.lower()}, wanted {kind.name.lower()}")
    return problems or _wrong_places([_bytes(i, piece.text).decode() for i, piece in enumerate(vocabulary.pieces)])


def _score(i: int, piece: Piece) -> float:
    return NEVER if i not in FIXED and piece.kind is PieceKind.CONTROL else piece.score


def _piece(i: int, score: float, text: str) -> Piece:
    if i not in FIXED and score == NEVER:
        return Piece(text=_text(i, text), score=0.0, kind=PieceKind.CONTROL)
    return Piece(text=_text(i, text), score=score, kind=FIXED.get(i, PieceKind.NORMAL))


def _bytes(i: int, text: str) -> bytes:
    return MARKED.get(i, text.replace(SPACE, " ")).encode()


def _text(i: int, text: str) -> str:
    return NAMES.get(i, text.replace(" ", SPACE))


def _entries(path: Path, data: bytes, rows: int) -> list[tuple[float, str]]:
    """Score and text of every row. Refused where the file ends before the last of them or goes on behind it."""
    at, entries = calcsize("<I"), []
    try:
        for _ in range(rows):
            score, length = unpack_from(ENTRY, data, at)
            start = at + calcsize(ENTRY)
            (text,) = unpack_from(f"{length}s", data, start)
            entries.append((score, text.decode()))
            at = start + length
    except (error, UnicodeDecodeError) as reason:
        _refuse(path, [f"entry {len(entries):,} of {rows:,}, at byte {at:,}, is damaged: {reason}"])
    if at != len(data):
        _refuse(path, [f"it has {len(data):,} bytes, its {rows:,} entries, one for each row of the embedding, {at:,}"])
    return entries


def _refuse(path: Path, problems: Sequence[str]) -> None:
    if problems:
        raise CheckpointError(
            f"{path}: not the tokenizer.bin of this model ({counted(len(problems), 'problem')}).",
            problems=capped(problems),
            advice="Take the tokenizer.bin that belongs to the model, as llama2.c's tokenizer.py exported it.",
        )


def _wrong_longest(data: bytes, texts: Sequence[str]) -> list[str]:
    (said,) = unpack_from("<I", data)
    longest = max((len(text.encode()) for text in texts), default=0)
    return [] if said == longest else [f"it says its longest piece has {said} bytes, but it has {longest}"]


def _wrong_places(texts: Sequence[str]) -> list[str]:
    """Where the first 259 texts are not those that the C programs take them for."""
    wanted = {UNKNOWN: "<unk>"} | MARKED | {FIRST_BYTE + value: text for value, text in enumerate(BYTE_PIECES)}
    found = dict(enumerate(texts))
    return [f"entry {i} is {found.get(i)!r}, wanted {text!r}" for i, text in wanted.items() if found.get(i) != text]
