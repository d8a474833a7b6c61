"""The tokenizer's files beside the weights: Hugging Face's JSON, or Meta's tokenizer.model."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from llama_convert.convert.checkpoint import Checkpoint, TokenizerFile
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.json_files import json_file, read_object
from llama_convert.convert.outputs import SideFile
from llama_convert.convert.special_names import NAME, special_names_file
from llama_convert.convert.tokenizers.huggingface import special_tokens_map, tokenizer_config
from llama_convert.convert.tokenizers.kinds import TokenizerKind, sniff
from llama_convert.convert.tokenizers.model_proto import write_sentencepiece
from llama_convert.convert.tokenizers.sentencepiece import SentencePieceVocabulary, read_sentencepiece
from llama_convert.convert.tokenizers.special_tokens import special_tokens
from llama_convert.convert.tokenizers.tiktoken import TiktokenVocabulary, write_tiktoken
from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json
from llama_convert.convert.tokens import Tokens

MODEL = "tokenizer.model"
_JSON = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_MAP = "special_tokens_map.json"
# What else a Hugging Face folder may say of its tokenizer.
_MORE = ("chat_template.jinja", "chat_template.json", "added_tokens.json")


def tokenizer_json_files(source: Checkpoint, tokens: Tokens, *, says_begin: bool = False) -> tuple[SideFile, ...]:
    """tokenizer.json and the small files beside it: made from the vocabulary, or taken as they are.

    says_begin: tokenizer_config.json must be there and tell that every text begins with the begin token, for
    readers that do not go by tokenizer.json there. What is made always says so.
    """
    if tokens.file.kind is TokenizerKind.HUGGING_FACE:
        return _taken(source, tokens, {"add_bos_token": True} if says_begin else {})
    return (
        SideFile(
            _JSON, partial(write_tokenizer_json, vocabulary=tokens.named.vocabulary, special=tokens.named.special)
        ),
        *_configs(source, tokens),
    )


def _configs(source: Checkpoint, tokens: Tokens) -> tuple[SideFile, ...]:
    uses = tokens.conventions
    tasks = {"begin": uses.begin, "end": uses.end, "pad": uses.pad}
    config = tokenizer_config(tokens.added, **tasks, context=source.config.context, chat_template=uses.chat_template)
    return json_file(_CONFIG, config), json_file(_MAP, special_tokens_map(tokens.added, **tasks))


def _taken(source: Checkpoint, tokens: Tokens, said: dict[str, Any]) -> tuple[SideFile, ...]:
    """A tokenizer.json is the very thing wanted; what is beside it is only made anew where the user says more.

    said: what tokenizer_config.json has to say besides; it is made where there is none.
    """
    folder = tokens.file.path.parent
    taken = (SideFile(_JSON, partial(shutil.copyfile, tokens.file.path)),)
    told = (folder / _CONFIG).is_file()
    if tokens.file.conventions is None or (said and not told):
        return (*taken, *_configs(source, tokens))
    config = _loadable(read_object(folder / _CONFIG)) | said if told else None
    more = [folder / name for name in (_MAP, *_MORE) if (folder / name).is_file()]
    return (
        *taken,
        *([json_file(_CONFIG, config)] if config is not None else []),
        *(SideFile(path.name, partial(shutil.copyfile, path)) for path in more),
    )


def _loadable(config: dict[str, Any]) -> dict[str, Any]:
    """Transformers 5 saves a class that 4.x does not know, for the tokenizer that both call by this name."""
    foreign = config.get("tokenizer_class") == "TokenizersBackend"
    return config | ({"tokenizer_class": "PreTrainedTokenizerFast"} if foreign else {})


def find_tokenizer_model(folder: Path) -> TokenizerFile | None:
    """Meta's tokenizer.model beside the weights or, as in Meta's downloads of Llama 1 and 2, one folder above."""
    for place in (folder, folder.resolve().parent):
        path = place / MODEL
        if path.is_file():
            return TokenizerFile(sniff(path), path)
    return None


def tokenizer_model_files(source: Checkpoint, tokens: Tokens) -> tuple[tuple[SideFile, ...], tuple[str, ...]]:
    """Meta's tokenizer.model, `special_tokens.json` where the names need it, and what to know of that.

    Of Llama 3 tokenizer.model is made byte for byte as Meta's; of Llama 1 and 2 only what decides about ids is
    kept, unless the original lies in the source.
    """
    names = _names_files(source, tokens)
    notes = (f"{NAME} holds the special tokens' names: the programs for this format have others.",) if names else ()
    return (_tokenizer_model(tokens), *names), notes


def _tokenizer_model(tokens: Tokens) -> SideFile:
    if tokens.file.kind in (TokenizerKind.TIKTOKEN, TokenizerKind.SENTENCEPIECE):
        return SideFile(MODEL, partial(shutil.copyfile, tokens.file.path))
    vocabulary = tokens.named.vocabulary
    if isinstance(vocabulary, TiktokenVocabulary):
        return SideFile(MODEL, partial(write_tiktoken, vocabulary=vocabulary))
    original = _original(tokens.file.path.parent, vocabulary)
    write = partial(shutil.copyfile, original) if original else partial(write_sentencepiece, vocabulary=vocabulary)
    return SideFile(MODEL, write)


def _original(folder: Path, vocabulary: SentencePieceVocabulary) -> Path | None:
    places = (folder / "original" / MODEL, folder / MODEL)
    return next((path for path in places if path.is_file() and _holds(path, vocabulary)), None)


def _holds(path: Path, vocabulary: SentencePieceVocabulary) -> bool:
    try:
        return read_sentencepiece(path) == vocabulary
    except CheckpointError:  # another kind, or damaged: then the file is made from the vocabulary
        return False


def tokenizer_kind(tokens: Tokens) -> TokenizerKind:
    """The kind that the tokenizer.model will be of."""
    ranks = isinstance(tokens.named.vocabulary, TiktokenVocabulary)
    return TokenizerKind.TIKTOKEN if ranks else TokenizerKind.SENTENCEPIECE


def _names_files(source: Checkpoint, tokens: Tokens) -> tuple[SideFile, ...]:
    """`special_tokens.json` where the names are not the version's.

    Rows of the embedding behind the last token get names, for Meta's tokenizers have one for every row.
    Raises UsageError where a SentencePiece model, which holds all its pieces itself, has fewer than rows.
    """
    missing = tokens.rows - tokens.named.size
    if tokenizer_kind(tokens) is TokenizerKind.SENTENCEPIECE:
        if missing:
            raise UsageError(
                f"{tokens.file.path}: {tokens.named.size:,} tokens for {tokens.rows:,} rows of the embedding; "
                "a SentencePiece tokenizer.model has a token for every row",
                advice="Convert to hf, which can have more rows.",
            )
        return ()
    names = (*tokens.named.special, *_fillers(tokens.named.special, missing))
    return () if names == special_tokens(source.version.name) else (special_names_file(names),)


def _fillers(names: tuple[str, ...], count: int) -> list[str]:
    free = (f"<|reserved_special_token_{number}|>" for number in range(len(names) + count))
    return [name for name in free if name not in names][:count]
