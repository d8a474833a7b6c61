"""The tokenizer of a conversion's source: what its special tokens are for, and its vocabulary when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from llama_convert.convert.checkpoint import Checkpoint, Conventions, TokenizerFile
from llama_convert.convert.claims import pad_of
from llama_convert.convert.containers.gguf import read_gguf
from llama_convert.convert.containers.sources import byte_source
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.outputs import Request
from llama_convert.convert.special_names import read_plain_names, read_special_names
from llama_convert.convert.tokenizers.added import AddedToken, NamedVocabulary, added_tokens
from llama_convert.convert.tokenizers.byte_level import byte_text
from llama_convert.convert.tokenizers.changes import with_pad, with_tokens
from llama_convert.convert.tokenizers.chat import chat_template
from llama_convert.convert.tokenizers.gguf_reading import read_gguf_vocabulary
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.tokenizers.llama2c import read_tokenizer_bin
from llama_convert.convert.tokenizers.sentencepiece import SentencePieceVocabulary, read_sentencepiece
from llama_convert.convert.tokenizers.special_tokens import begin_token, end_token, replace_names, special_tokens
from llama_convert.convert.tokenizers.tiktoken import LLAMA_4_RANKS, TiktokenVocabulary, read_tiktoken
from llama_convert.convert.tokenizers.tokenizer_json_file import read_tokenizer_json
from llama_convert.convert.vocabulary import Change

_SIZE_OF_CODE_LLAMA_70B = (8192, 80)
# Every token that ends an answer of an instruct model, where the version has it.
_ENDS_OF_ANSWER = {
    TokenizerKind.TIKTOKEN: ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    TokenizerKind.SENTENCEPIECE: ("</s>", "<step>"),  # the latter in Code Llama 70B
}
# Files of these kinds have exactly as many tokens as the embedding has rows; others may leave rows unnamed.
_EXACT = (TokenizerKind.TIKTOKEN, TokenizerKind.SENTENCEPIECE)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A source's tokenizer, opened.

    file: where it was found. rows: of the embedding as it is to be; ids behind the last token have no name.
    stored: rows that the source's own embedding has. change: what is to become of the vocabulary. pad: the id to
    pad with, where the change or a file says it.
    """

    file: TokenizerFile
    rows: int
    stored: int
    change: Change | None
    pad: int | None
    read: Callable[[], NamedVocabulary]
    by_version: Callable[[tuple[AddedToken, ...]], Conventions]

    @cached_property
    def original(self) -> NamedVocabulary:
        """All tokens of the files, proven to be of one of Llama's kinds. CheckpointError where not, or no fit."""
        named = self.read()
        too_few = named.size < self.stored and self.file.kind in _EXACT
        if named.size > self.stored or too_few:
            raise CheckpointError(
                f"{self.file.path}: the wrong tokenizer: it has {named.size:,} tokens, "
                f"the embedding has {self.stored:,} rows",
                advice=f"Copy the {self.file.path.name} that came with these weights into their folder.",
            )
        return named

    @cached_property
    def named(self) -> NamedVocabulary:
        """All tokens, the new ones too. Raises what `original` does; UsageError where the change does not fit."""
        named = self.original
        if self.change:
            named = with_tokens(named, self.change.tokens) if self.change.tokens else named
            if named.size > self.rows:
                raise UsageError(
                    f"{self.file.path}: {named.size:,} tokens do not fit into {self.rows:,} rows",
                    advice=f"Give at least {named.size:,} rows.",
                )
        return with_pad(named, self.pad)

    @cached_property
    def added(self) -> tuple[AddedToken, ...]:
        """The tokens that are found in raw text, special or not, with their ids."""
        return added_tokens(self.named.vocabulary, self.named.special, self.named.plain)

    @property
    def new(self) -> tuple[AddedToken, ...]:
        """Those of them that no file has yet; user-defined pieces of SentencePiece are never among them."""
        return tuple(token for token in self.added if token.id >= self.original.size)

    @cached_property
    def conventions(self) -> Conventions:
        """What the tokens are for: what the files say, or what is the custom of the version; and the change."""
        if self.file.conventions:
            return replace(self.file.conventions, pad=self.pad)
        uses, vocabulary = self.by_version(self.added), self.named.vocabulary
        own = vocabulary.pad if isinstance(vocabulary, SentencePieceVocabulary) else None
        return replace(uses, pad=own if self.pad is None else self.pad)

    def text(self, number: int) -> str:
        """What the files call the token of this id."""
        ordinary = self.named.vocabulary
        if isinstance(ordinary, SentencePieceVocabulary):
            return ordinary.pieces[number].text
        behind = number - len(ordinary.tokens)
        return byte_text(ordinary.tokens[number]) if behind < 0 else self.named.special[behind]


def open_tokens(source: Checkpoint, request: Request) -> Tokens:
    """The source's tokenizer.

    Its vocabulary is read when it is asked for: a target that takes the file as it is needs none of it.
    Raises CheckpointError: no tokenizer. UsageError: special tokens named for one that names them itself.
    """
    file = source.tokenizer
    if file is None:
        raise CheckpointError(
            f"{source.path}: no tokenizer here or one folder above",
            advice="Copy the tokenizer that came with the weights into the folder.",
        )
    if request.special_tokens and file.kind is not TokenizerKind.TIKTOKEN:
        raise UsageError(
            f"--special-tokens: a {file.kind.value} names its special tokens itself",
            advice="Leave the option out: it is for the tokenizer.model of Llama 3 and later.",
        )
    if request.instruct:  # the user knows better than the files what the weights are for
        file = TokenizerFile(file.kind, file.path)
    return Tokens(
        file=file,
        rows=source.config.vocab_size,
        stored=source.rows,
        change=source.change,
        pad=pad_of(source),
        read=partial(_READERS[file.kind], source, request),
        by_version=partial(_by_version, source, request),
    )


def _tiktoken(source: Checkpoint, request: Request) -> NamedVocabulary:
    path = _path(source)
    ranks = read_tiktoken(path)
    if len(ranks.tokens) == LLAMA_4_RANKS:
        raise CheckpointError(
            f"{path}: this is Llama 4's tokenizer ({LLAMA_4_RANKS:,} ranks), which is not supported",
            advice="Copy the tokenizer.model that came with these weights into their folder.",
        )
    names = _special_names(source, ranks, request)
    plain = read_plain_names(path.parent) & {*names} if request.special_tokens is None else frozenset[str]()
    return NamedVocabulary(vocabulary=ranks, special=names, plain=plain)


def _special_names(source: Checkpoint, vocabulary: TiktokenVocabulary, request: Request) -> tuple[str, ...]:
    version = source.version.name
    if request.special_tokens is None:
        return read_special_names(_path(source).parent) or special_tokens(version)
    return replace_names(
        request.special_tokens,
        version=version,
        count=source.rows - len(vocabulary.tokens),
        instruct=request.instruct,
        ordinary=set(vocabulary.tokens),
    )


def _sentencepiece(source: Checkpoint, request: Request) -> NamedVocabulary:
    return NamedVocabulary(vocabulary=read_sentencepiece(_path(source)), special=())


def _tokenizer_json(source: Checkpoint, request: Request) -> NamedVocabulary:
    return read_tokenizer_json(_path(source))


def _gguf(source: Checkpoint, request: Request) -> NamedVocabulary:
    path = _path(source)
    return read_gguf_vocabulary(path, read_gguf(byte_source(path)).plain())


def _llama2c(source: Checkpoint, request: Request) -> NamedVocabulary:
    return NamedVocabulary(vocabulary=read_tokenizer_bin(_path(source), source.rows), special=())


_READERS: Mapping[TokenizerKind, Callable[[Checkpoint, Request], NamedVocabulary]] = {
    TokenizerKind.TIKTOKEN: _tiktoken,
    TokenizerKind.SENTENCEPIECE: _sentencepiece,
    TokenizerKind.HUGGING_FACE: _tokenizer_json,
    TokenizerKind.GGUF: _gguf,
    TokenizerKind.LLAMA2C: _llama2c,
}


def _path(source: Checkpoint) -> Path:
    assert source.tokenizer is not None  # open_tokens refuses a source without one
    return source.tokenizer.path


def _by_version(source: Checkpoint, request: Request, added: tuple[AddedToken, ...]) -> Conventions:
    """What is the custom of the version, for base or for chat models."""
    version, ids = source.version, {token.text: token.id for token in added}
    end = ids.get(end_token(version.name, instruct=request.instruct))
    texts = _ENDS_OF_ANSWER[version.tokenizer] if request.instruct else ()
    # Llama 3 has no <|eom_id|>: its id is a reserved token there, and is left out.
    ends = tuple(ids[text] for text in texts if text in ids)
    size = (source.config.hidden_size, source.config.layers)
    template = chat_template(version.name, large_code=size == _SIZE_OF_CODE_LLAMA_70B) if request.instruct else None
    return Conventions(
        begin=ids.get(begin_token(version.name)),
        end=end,
        ends=ends or ((end,) if end is not None else ()),
        pad=None,
        chat_template=template,
    )
