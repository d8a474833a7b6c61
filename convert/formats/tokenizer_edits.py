"""Hugging Face's tokenizer files with a change of the vocabulary made in them; all that is not changed is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama_convert.convert.json_files import json_file, read_object
from llama_convert.convert.outputs import SideFile
from llama_convert.convert.tokenizers.added import AddedToken
from llama_convert.convert.tokenizers.pieces import user_defined_pattern
from llama_convert.convert.tokenizers.sentencepiece import PieceKind, SentencePieceVocabulary
from llama_convert.convert.tokenizers.tokenizer_json import write_document
from llama_convert.convert.tokens import Tokens

# Classes of transformers 5 that build a tokenizer of their own from the tokens, without the cut that user-defined
# pieces need.
_BUILDERS = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast")
GENERIC_CLASS = "PreTrainedTokenizerFast"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edit:
    """What is to be done to a tokenizer.json.

    added: entries for `added_tokens`. listed: texts that the model's own vocabulary gets. pattern: that cuts
    user-defined pieces out; None leaves what is there. pad: text and id.
    """

    added: tuple[AddedToken, ...]
    listed: Mapping[str, int]
    pattern: str | None
    pad: tuple[str, int] | None


def edited_tokenizer_json(tokens: Tokens) -> SideFile:
    """The source's tokenizer.json with the new tokens in it."""
    pieces = _user_defined(tokens)
    vocabulary = tokens.named.vocabulary
    pattern = user_defined_pattern(vocabulary) if pieces and isinstance(vocabulary, SentencePieceVocabulary) else None
    edit = _Edit(
        added=tokens.new,
        listed=vocabulary.ids() if pattern and isinstance(vocabulary, SentencePieceVocabulary) else {},
        pattern=pattern,
        pad=_pad(tokens),
    )
    return SideFile("tokenizer.json", partial(_write_edited, tokens.file.path, edit))


def _user_defined(tokens: Tokens) -> bool:
    """Whether new tokens are pieces that are cut out of text once spaces are ▁."""
    vocabulary = tokens.named.vocabulary
    if not isinstance(vocabulary, SentencePieceVocabulary):
        return False
    return any(piece.kind is PieceKind.USER_DEFINED for piece in vocabulary.pieces[tokens.original.size :])


def _pad(tokens: Tokens) -> tuple[str, int] | None:
    pad = tokens.change.pad if tokens.change else None
    return None if pad is None else (tokens.text(pad), pad)


def _write_edited(source: Path, edit: _Edit, target: Path) -> None:
    whole = read_object(source)
    entries = [{"id": token.id, **token.properties()} for token in edit.added]
    whole["added_tokens"] = [*(whole.get("added_tokens") or []), *entries]
    if edit.pattern is not None:
        _cut_out(whole, edit.pattern, edit.listed)
    if edit.pad and isinstance(whole.get("padding"), dict):
        whole["padding"] |= {"pad_token": edit.pad[0], "pad_id": edit.pad[1]}
    write_document(target, whole)


def _cut_out(whole: dict[str, Any], pattern: str, listed: Mapping[str, int]) -> None:
    """User-defined pieces are tokens of the model, which finds them whole where a pattern isolates them."""
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    found = whole.get("pre_tokenizer")
    if found and found.get("type") == "Metaspace":
        whole["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [found, cut]}
    elif found and found.get("type") == "Sequence":
        whole["pre_tokenizer"] = found | {"pretokenizers": [*found["pretokenizers"][:-1], cut]}
    else:
        whole["pre_tokenizer"] = cut
    model = whole["model"]
    model["vocab"] = dict(listed)
    model["ignore_merges"] = True


def edited_configs(tokens: Tokens, config: dict[str, Any]) -> tuple[SideFile, ...]:
    """tokenizer_config.json and the files beside it that name tokens, where the source has them."""
    folder, names = tokens.file.path.parent, {token.text: token.id for token in tokens.new}
    files = [json_file("tokenizer_config.json", _config(tokens, config))]
    if (path := folder / "special_tokens_map.json").is_file():
        files.append(json_file(path.name, read_object(path) | _pad_token(tokens)))
    if (path := folder / "added_tokens.json").is_file():
        files.append(json_file(path.name, read_object(path) | names))
    return tuple(files)


def _config(tokens: Tokens, config: dict[str, Any]) -> dict[str, Any]:
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        config = config | {
            "added_tokens_decoder": decoder | {str(token.id): token.properties() for token in tokens.new}
        }
    if needs_generic_class(tokens, config):
        config = config | {"tokenizer_class": GENERIC_CLASS}
    return config | _pad_token(tokens)


def needs_generic_class(tokens: Tokens, config: Mapping[str, Any]) -> bool:
    """Whether the class that the folder names would lose new tokens."""
    return _user_defined(tokens) and config.get("tokenizer_class") in _BUILDERS


def _pad_token(tokens: Tokens) -> dict[str, str]:
    pad = _pad(tokens)
    return {"pad_token": pad[0]} if pad else {}
