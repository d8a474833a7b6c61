"""The tokenizer of a Hugging Face folder: its file, and what the configs say of the use of its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_convert.convert.checkpoint import Conventions, TokenizerFile
from llama_convert.convert.json_files import read_object
from llama_convert.convert.tokenizers.kinds import TokenizerKind, sniff


def find_tokenizer(folder: Path, config: Mapping[str, Any]) -> TokenizerFile | None:
    """tokenizer.json, or else tokenizer.model; None without either.

    config: what config.json says, if there is one.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        return TokenizerFile(TokenizerKind.HUGGING_FACE, path, read_conventions(folder, config))
    path = folder / "tokenizer.model"
    return TokenizerFile(sniff(path), path, read_conventions(folder, config)) if path.is_file() else None


def read_conventions(folder: Path, config: Mapping[str, Any]) -> Conventions:
    """What a folder's configs say of the use of its tokens.

    generation_config.json is what decides where an answer ends; config.json stands in for it.
    """
    generation = _object(folder / "generation_config.json")
    tokenizer = _object(folder / "tokenizer_config.json")
    ends = _ids(generation.get("eos_token_id")) or _ids(config.get("eos_token_id"))
    named = _named(tokenizer)
    begin = _ids(config.get("bos_token_id"))
    pad = _ids(config.get("pad_token_id")) or _ids(generation.get("pad_token_id"))
    return Conventions(
        begin=begin[0] if begin else named.get(_text(tokenizer.get("bos_token"))),
        end=named.get(_text(tokenizer.get("eos_token")), ends[0] if ends else None),
        ends=ends,
        pad=pad[0] if pad else named.get(_text(tokenizer.get("pad_token"))),
        chat_template=_template(folder, tokenizer),
    )


def _object(path: Path) -> Mapping[str, Any]:
    return read_object(path) if path.is_file() else {}


def _ids(value: Any) -> tuple[int, ...]:
    """An id or a list of them; anything else is no id."""
    values = value if isinstance(value, list) else [value]
    return tuple(number for number in values if type(number) is int)


def _named(tokenizer: Mapping[str, Any]) -> dict[str | None, int]:
    """Ids of the added tokens by their text."""
    added = tokenizer.get("added_tokens_decoder")
    entries = added.items() if isinstance(added, dict) else ()
    return {_text(token): int(number) for number, token in entries if number.isdecimal()}


def _text(token: Any) -> str | None:
    """A token is written as its text, or as an object that has it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _template(folder: Path, tokenizer: Mapping[str, Any]) -> str | None:
    """The template for chats; of several, the one named default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = tokenizer.get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None
