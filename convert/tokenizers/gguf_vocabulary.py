"""A tokenizer as the `tokenizer.ggml.*` values of a GGUF file, the way llama.cpp's own converter writes them.

Facts: ggml-org/llama.cpp convert_hf_to_gguf.py (get_vocab_base, _create_vocab_sentencepiece), gguf-py
gguf/vocab.py (SpecialVocab), src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.tokenizers.added import Vocabulary
from llama_convert.convert.tokenizers.byte_level import byte_text
from llama_convert.convert.tokenizers.merge_lists import merge_texts
from llama_convert.convert.tokenizers.sentencepiece import SPACE, Piece, PieceKind, SentencePieceVocabulary
from llama_convert.convert.tokenizers.tiktoken import TiktokenVocabulary, merges

GgufValue = str | bool | int | list[str] | list[int] | list[float]

MODEL = "tokenizer.ggml.model"
PRE = "tokenizer.ggml.pre"
TOKENS = "tokenizer.ggml.tokens"
SCORES = "tokenizer.ggml.scores"
TOKEN_TYPE = "tokenizer.ggml.token_type"
MERGES = "tokenizer.ggml.merges"
BEGIN_ID = "tokenizer.ggml.bos_token_id"
END_ID = "tokenizer.ggml.eos_token_id"
UNKNOWN_ID = "tokenizer.ggml.unknown_token_id"
PAD_ID = "tokenizer.ggml.padding_token_id"
ADD_BEGIN = "tokenizer.ggml.add_bos_token"
ADD_END = "tokenizer.ggml.add_eos_token"
ADD_SPACE = "tokenizer.ggml.add_space_prefix"

RANKS_MODEL, RANKS_PRE = "gpt2", "llama-bpe"
PIECES_MODEL, PIECES_PRE = "llama", "default"
FILLER_SCORE = -10000.0


def filler(i: int) -> str:
    """The text of row i of an embedding that has more rows than there are tokens."""
    return f"[PAD{i}]"


def gguf_vocabulary(
    vocabulary: Vocabulary,
    special: Sequence[str] = (),
    *,
    plain: Container[str] = (),
    rows: int,
    begin: int,
    end: int,
    pad: int | None = None,
) -> dict[str, GgufValue]:
    """The keys and values of a vocabulary, in the order in which llama.cpp's converter writes them.

    special: names of the ids behind a tiktoken vocabulary's ranks; not looked at for SentencePiece. plain: those
    of them that are user-defined, not control tokens.
    rows: of the embedding; those behind the last token become unused `[PAD...]` tokens. begin, end, pad: ids;
    without pad a SentencePiece vocabulary's own is taken, where it has one. Types in the file: ids are
    uint32, token types int32, scores float32.
    llama.cpp tells the ends of turns (<|eot_id|>, <|eom_id|>) by their names. It cuts user-defined pieces out
    before spaces become ▁, so they stand there with spaces. Exact: `read_gguf_vocabulary` gives it back.
    Raises CheckpointError where there are fewer rows than tokens; UsageError for a SentencePiece vocabulary
    without byte pieces, on which llama.cpp stops at the first unknown character.
    Cost: 0.6 s and 35 MB for Llama 3, whose 280,147 merges are most of it.
    """
    if isinstance(vocabulary, TiktokenVocabulary):
        return _ranks(vocabulary, special, plain, rows) | _tasks(begin, end, pad) | {ADD_BEGIN: True}
    if not vocabulary.byte_fallback:
        raise UsageError("A SentencePiece model without byte pieces cannot be in a GGUF file: llama.cpp needs them.")
    values = _pieces(vocabulary, rows) | _tasks(begin, end, vocabulary.pad if pad is None else pad)
    values |= {UNKNOWN_ID: vocabulary.unknown, ADD_BEGIN: True, ADD_END: False}
    return values if vocabulary.add_dummy_prefix else values | {ADD_SPACE: False}


def _ranks(
    vocabulary: TiktokenVocabulary, special: Sequence[str], plain: Container[str], rows: int
) -> dict[str, GgufValue]:
    texts = [byte_text(token) for token in vocabulary.tokens]
    fillers = _fillers(len(texts) + len(special), rows)
    added = (PieceKind.USER_DEFINED if name in plain else PieceKind.CONTROL for name in special)
    kinds = (*(PieceKind.NORMAL for _ in texts), *added, *(PieceKind.UNUSED for _ in fillers))
    return {
        MODEL: RANKS_MODEL,
        PRE: RANKS_PRE,
        TOKENS: [*texts, *special, *fillers],
        TOKEN_TYPE: [kind.value for kind in kinds],
        MERGES: merge_texts(texts, merges(vocabulary)),
    }


def _pieces(vocabulary: SentencePieceVocabulary, rows: int) -> dict[str, GgufValue]:
    fillers = _fillers(len(vocabulary.pieces), rows)
    return {
        MODEL: PIECES_MODEL,
        PRE: PIECES_PRE,
        TOKENS: [*map(_piece_text, vocabulary.pieces), *fillers],
        SCORES: [*(piece.score for piece in vocabulary.pieces), *(FILLER_SCORE for _ in fillers)],
        TOKEN_TYPE: [*(piece.kind.value for piece in vocabulary.pieces), *(PieceKind.UNUSED.value for _ in fillers)],
    }


def _piece_text(piece: Piece) -> str:
    return piece.text.replace(SPACE, " ") if piece.kind is PieceKind.USER_DEFINED else piece.text


def _fillers(found: int, rows: int) -> list[str]:
    if found > rows:
        raise CheckpointError(
            f"The tokenizer has {found:,} tokens, the embedding {rows:,} rows: every token needs one.",
            advice="Take the tokenizer that came with these weights.",
        )
    return [filler(i) for i in range(found, rows)]


def _tasks(begin: int, end: int, pad: int | None) -> dict[str, GgufValue]:
    ids: dict[str, GgufValue] = {BEGIN_ID: begin, END_ID: end}
    return ids if pad is None else ids | {PAD_ID: pad}
