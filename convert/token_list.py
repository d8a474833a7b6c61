"""What one needs to know of a vocabulary before it is changed: which texts and ids are taken, which are reserved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.outputs import Request
from llama_convert.convert.tokenizers.added import AddedToken
from llama_convert.convert.tokenizers.changes import token_numbers
from llama_convert.convert.tokenizers.sentencepiece import SentencePieceVocabulary
from llama_convert.convert.tokenizers.special_tokens import is_reserved
from llama_convert.convert.tokens import open_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenList:
    """The tokens of a checkpoint's files, before any change.

    numbers: the id of every token by its text, and by what tokenizer.json writes for it. size: how many tokens
    there are: the ids below are taken, no id from there on. rows: of the embedding. added: what is found in raw
    text, special or not. reserved: special tokens that Meta left without a task, and no file gives one. begin, end,
    pad: ids, None where there is none. unknown: the id of `<unk>`, which only SentencePiece has.
    """

    numbers: Mapping[str, int]
    size: int
    rows: int
    added: tuple[AddedToken, ...]
    reserved: tuple[AddedToken, ...]
    begin: int | None
    end: int | None
    pad: int | None
    unknown: int | None


def list_tokens(source: Checkpoint, request: Request | None = None) -> TokenList:
    """The tokens of the checkpoint, which must not be changed yet.

    Raises what `open_tokens` raises, and CheckpointError for a tokenizer that is not of Llama's kinds or does not
    fit. Cost: 1 s for Llama 3.
    """
    tokens = open_tokens(source, request or Request())
    uses, named = tokens.conventions, tokens.original
    busy = {uses.begin, uses.end, uses.pad, *uses.ends}
    return TokenList(
        numbers=token_numbers(named),
        size=named.size,
        rows=tokens.stored,
        added=tokens.added,
        reserved=tuple(token for token in tokens.added if is_reserved(token.text) and token.id not in busy),
        begin=uses.begin,
        end=uses.end,
        pad=uses.pad,
        unknown=named.vocabulary.unknown if isinstance(named.vocabulary, SentencePieceVocabulary) else None,
    )
