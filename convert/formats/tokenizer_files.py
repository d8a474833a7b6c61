"""The tokenizer's files beside the weights: Hugging Face's JSON, or Meta's tokenizer.model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from llama_convert.convert.checkpoint import Checkpoint, TokenizerFile
from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.formats.tokenizer_edits import edited_configs, edited_tokenizer_json
from llama_convert.convert.json_files import json_file, read_object
from llama_convert.convert.outputs import SideFile
from llama_convert.convert.special_names import NAME, special_names_file
from llama_convert.convert.tokenizers.added import NamedVocabulary, Vocabulary, added_tokens
from llama_convert.convert.tokenizers.changes import with_fillers
from llama_convert.convert.tokenizers.huggingface import special_tokens_map, tokenizer_config
from llama_convert.convert.tokenizers.kinds import TokenizerKind, sniff
from llama_convert.convert.tokenizers.model_proto import extend_sentencepiece, write_sentencepiece
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
        SideFile(_JSON, partial(write_tokenizer_json, **_parts(tokens.named))),
        *_configs(source, tokens),
    )


def _parts(named: NamedVocabulary) -> dict[str, Any]:
    return {"vocabulary": named.vocabulary, "special": named.special, "plain": named.plain}


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
    taken = _taken_json(tokens)
    told = (folder / _CONFIG).is_file()
    if tokens.file.conventions is None or ((said or tokens.change) and not told):
        return (taken, *_configs(source, tokens))
    config = _loadable(read_object(folder / _CONFIG)) | said if told else None
    edited = edited_configs(tokens, config) if tokens.change and config is not None else ()
    files = edited or ((json_file(_CONFIG, config),) if config is not None else ())
    made = {file.name for file in files}
    more = [folder / name for name in (_MAP, *_MORE) if name not in made and (folder / name).is_file()]
    return (taken, *files, *(SideFile(path.name, partial(shutil.copyfile, path)) for path in more))


def _taken_json(tokens: Tokens) -> SideFile:
    if tokens.change and tokens.change.tokens:
        return edited_tokenizer_json(tokens)
    return SideFile(_JSON, partial(shutil.copyfile, tokens.file.path))


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
    kept, unless the original lies in the source: then new pieces are put behind what is in it. Rows of the
    embedding behind the last token get names, for Meta's tokenizers have one for every row.
    """
    named = with_fillers(tokens.named, tokens.rows)
    if isinstance(named.vocabulary, SentencePieceVocabulary):
        return (_pieces_file(tokens, named.vocabulary),), tuple(_piece_notes(tokens, named, named.vocabulary.pad))
    names = () if _are_versions(source, named) else (special_names_file(named.special, named.plain),)
    return (_ranks_file(tokens, named.vocabulary), *names), tuple(_rank_notes(tokens, named, names=bool(names)))


def _ranks_file(tokens: Tokens, vocabulary: TiktokenVocabulary) -> SideFile:
    if tokens.file.kind is TokenizerKind.TIKTOKEN:
        return SideFile(MODEL, partial(shutil.copyfile, tokens.file.path))
    return SideFile(MODEL, partial(write_tiktoken, vocabulary=vocabulary))


def _pieces_file(tokens: Tokens, vocabulary: SentencePieceVocabulary) -> SideFile:
    original = _original(tokens)
    if original is None:
        return SideFile(MODEL, partial(write_sentencepiece, vocabulary=vocabulary))
    if vocabulary == tokens.original.vocabulary:
        return SideFile(MODEL, partial(shutil.copyfile, original))
    return SideFile(MODEL, partial(extend_sentencepiece, source=original, vocabulary=vocabulary))


def _original(tokens: Tokens) -> Path | None:
    """Meta's file with the vocabulary as it was before any change."""
    if tokens.file.kind is TokenizerKind.SENTENCEPIECE:
        return tokens.file.path
    folder = tokens.file.path.parent
    places = (folder / "original" / MODEL, folder / MODEL)
    return next((path for path in places if path.is_file() and _holds(path, tokens.original.vocabulary)), None)


def _holds(path: Path, vocabulary: Vocabulary) -> bool:
    try:
        return read_sentencepiece(path) == vocabulary
    except CheckpointError:  # another kind, or damaged: then the file is made from the vocabulary
        return False


def _are_versions(source: Checkpoint, named: NamedVocabulary) -> bool:
    return named.special == special_tokens(source.version.name) and not named.plain


def _rank_notes(tokens: Tokens, named: NamedVocabulary, *, names: bool) -> Iterator[str]:
    if names:
        new = f", without {tokens.new[0].text}" if tokens.new else ""
        yield f"{NAME} holds the special tokens' names: the programs for this format have others{new}."
    yield from _filler_note(tokens, named, NAME)
    yield from pad_note(tokens)


def _filler_note(tokens: Tokens, named: NamedVocabulary, file: str) -> Iterator[str]:
    if count := named.size - tokens.named.size:
        first = added_tokens(named.vocabulary, named.special)[-count].text
        yield f"{counted(count, 'row')} of the embedding {'has' if count == 1 else 'have'} no token: {file} calls " + (
            f"it {first}." if count == 1 else f"them {first} and so on."
        )


def pad_note(tokens: Tokens) -> Iterator[str]:
    """What is to be known where no file of a format says which token pads."""
    if tokens.pad is not None and 0 <= tokens.pad < tokens.named.size:
        yield (
            f"no file of this format says that {tokens.text(tokens.pad)} (id {tokens.pad}) is the token to pad with: "
            "conversion.json keeps it."
        )


def _piece_notes(tokens: Tokens, named: NamedVocabulary, pad: int | None) -> Iterator[str]:
    """pad: what the model itself will say."""
    yield from _filler_note(tokens, named, MODEL)
    if tokens.pad != pad:
        yield from pad_note(tokens)


def tokenizer_kind(tokens: Tokens) -> TokenizerKind:
    """The kind that the tokenizer.model will be of."""
    ranks = isinstance(tokens.named.vocabulary, TiktokenVocabulary)
    return TokenizerKind.TIKTOKEN if ranks else TokenizerKind.SENTENCEPIECE
