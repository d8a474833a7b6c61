"""The tokenizer of a conversion's source: read, its special tokens named, its size held against the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llama_convert.convert.checkpoint import Checkpoint, TokenizerFile
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.plan import Request
from llama_convert.convert.tokenizers.added import AddedToken, Vocabulary, added_tokens
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.tokenizers.sentencepiece import SentencePieceVocabulary, read_sentencepiece
from llama_convert.convert.tokenizers.special_tokens import replace_names, special_tokens
from llama_convert.convert.tokenizers.tiktoken import LLAMA_4_RANKS, TiktokenVocabulary, read_tiktoken


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A tokenizer with its special tokens named.

    path: of the file it was read from. special: names of the ids behind a tiktoken file's ranks, empty for
    SentencePiece. added: the special tokens of either kind, with their ids.
    """

    path: Path
    vocabulary: Vocabulary
    special: tuple[str, ...]
    added: tuple[AddedToken, ...]

    def id(self, text: str) -> int | None:
        """The token's id, None where the vocabulary has no such token."""
        return next((token.id for token in self.added if token.text == text), None)


def open_tokens(source: Checkpoint, request: Request) -> Tokens:
    """The source's tokenizer, read and held against the embedding.

    Raises CheckpointError: no tokenizer, a damaged one, one whose size is not the embedding's, Llama 4's.
    UsageError: special tokens that do not fit; a source whose tokenizer is written already.
    """
    tokenizer = _tokenizer_file(source)
    rows = source.config.vocab_size
    vocabulary: Vocabulary
    special: tuple[str, ...] = ()
    if tokenizer.kind is TokenizerKind.SENTENCEPIECE:
        vocabulary = _sentencepiece(tokenizer, request)
        found = len(vocabulary.pieces)
    else:
        ranks = read_tiktoken(tokenizer.path)
        _refuse_llama_4(tokenizer, ranks)
        vocabulary, special = ranks, _special_names(source, ranks, request)
        found = len(ranks.tokens) + len(special)
    if found != rows:
        raise CheckpointError(
            f"{tokenizer.path}: the wrong tokenizer: it has {found:,} tokens, the embedding has {rows:,} rows",
            advice="Copy the tokenizer.model that came with these weights into their folder.",
        )
    return Tokens(path=tokenizer.path, vocabulary=vocabulary, special=special, added=added_tokens(vocabulary, special))


def _tokenizer_file(source: Checkpoint) -> TokenizerFile:
    if source.tokenizer is None:
        raise CheckpointError(
            f"{source.path}: no tokenizer.model here or one folder above",
            advice="Copy the tokenizer.model that came with the weights into the folder.",
        )
    if source.tokenizer.kind is TokenizerKind.HUGGING_FACE:
        raise UsageError(f"{source.path}: is in the Hugging Face format already")
    return source.tokenizer


def _refuse_llama_4(tokenizer: TokenizerFile, ranks: TiktokenVocabulary) -> None:
    if len(ranks.tokens) == LLAMA_4_RANKS:
        raise CheckpointError(
            f"{tokenizer.path}: this is Llama 4's tokenizer ({LLAMA_4_RANKS:,} ranks), which is not supported",
            advice="Copy the tokenizer.model that came with these weights into their folder.",
        )


def _sentencepiece(tokenizer: TokenizerFile, request: Request) -> SentencePieceVocabulary:
    if request.special_tokens:
        raise UsageError(
            "--special-tokens: a SentencePiece tokenizer names its special tokens itself",
            advice="Leave the option out: it is for Llama 3 and later.",
        )
    return read_sentencepiece(tokenizer.path)


def _special_names(source: Checkpoint, vocabulary: TiktokenVocabulary, request: Request) -> tuple[str, ...]:
    version = source.version.name
    if request.special_tokens is None:
        return special_tokens(version)
    return replace_names(
        request.special_tokens,
        version=version,
        count=source.config.vocab_size - len(vocabulary.tokens),
        instruct=request.instruct,
        ordinary=set(vocabulary.tokens),
    )
