"""Changed checkpoints made by hand, and every library that reads a tokenizer file, asked in the same words."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llama_convert.convert import Checkpoint, Request, convert_checkpoint, open_checkpoint
from llama_convert.convert.formats import find_format
from llama_convert.convert.plan import Plan, make_plan
from llama_convert.convert.vocabulary import Change, Init, NewRows, NewToken
from llama_convert.verify.tokenizer_judges import PATTERN
from tests.checkpoints import random_model, write_meta
from tests.convert.support import converted

PAD, NOTE = "<pad>", "<note>"
FIRST = {"3.1": 768, "2": 512}  # the id behind the last token of the small tokenizers
SPARE = 64  # rows of the embedding behind that


def folder_with_spare_rows(folder: Path, version: str, **options: object) -> Path:
    """A Hugging Face folder whose embedding has more rows than the tokenizer has tokens."""
    model = random_model(version, **options)  # type: ignore[arg-type]
    meta = write_meta(model, folder / "meta", tokenizer=model.tokenizer)
    return widened(converted(meta, folder / "hf", "hf", version), FIRST[version] + SPARE)


def widened(folder: Path, rows: int) -> Path:
    weights = load_file(folder / "model.safetensors")
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & set(weights):
        old = weights[name]
        weights[name] = torch.cat([old, torch.zeros(rows - len(old), old.shape[1], dtype=old.dtype)])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edited(folder / "config.json", vocab_size=rows)
    return folder


def edited(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def new_tokens(version: str, *, plain: bool = True) -> tuple[NewToken, ...]:
    tokens = (
        NewToken(id=FIRST[version], text=PAD, special=True),
        NewToken(id=FIRST[version] + 1, text=NOTE, special=False),
    )
    return tokens if plain else tokens[:1]


def changed(source: Checkpoint, tokens: Sequence[NewToken], pad: int | None, rows: int | None = None) -> Checkpoint:
    rows = source.config.vocab_size if rows is None else rows
    mean = NewRows(init=Init.MEAN)
    change = Change(rows=rows, tokens=tuple(tokens), pad=pad, embedding=mean, head=mean, why="a test")
    return replace(source, change=change, config=replace(source.config, vocab_size=rows))


def planned(source: Checkpoint, to: str, **request: object) -> Plan:
    return make_plan(source, find_format(to), Request(**request))  # type: ignore[arg-type]


def written(source: Checkpoint, folder: Path, to: str) -> Path:
    return convert_checkpoint(planned(source, to), folder).folder


def with_new_tokens(folder: Path, target: Path, to: str, version: str) -> Path:
    """The folder converted with the new tokens; llama2.c has no place for those that text gives."""
    source = open_checkpoint(folder, version)
    return written(changed(source, new_tokens(version, plain=to != "llama2c"), FIRST[version]), target, to)


@dataclass(frozen=True)
class Library:
    """A tokenizer in the hands of another library. encode: without the begin token; None where it only reads."""

    id_of: Callable[[str], int | None]
    text_of: Callable[[int], str]
    encode: Callable[[str], list[int]] | None
    pad: int | None = None


def library(folder: Path, to: str) -> Library:
    if to in ("hf", "mlx", "litgpt"):
        return _tokenizers(folder)
    if to == "gguf":
        return _gguf(next(folder.glob("*.gguf")))
    model = (folder / "tokenizer.model").read_bytes()
    return _sentencepiece(folder) if b"\x00" in model[:64] or model[:1] == b"\n" else _tiktoken(folder)


def _tokenizers(folder: Path) -> Library:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    slow = AutoTokenizer.from_pretrained(folder)
    return Library(
        tokenizer.token_to_id,
        slow.convert_ids_to_tokens,
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        slow.pad_token_id,
    )


def _gguf(path: Path) -> Library:
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    numbers = {text: number for number, text in enumerate(tokens)}
    return Library(numbers.get, tokens.__getitem__, None, fields["tokenizer.ggml.padding_token_id"].contents())


def _sentencepiece(folder: Path) -> Library:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    pad = model.pad_id()
    return Library(model.piece_to_id, model.id_to_piece, model.encode, pad if pad >= 0 else None)


def _tiktoken(folder: Path) -> Library:
    """As the book's class and Meta's do it, with the list of names beside the file."""
    import tiktoken

    lines = (line.split() for line in (folder / "tokenizer.model").read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    entries = json.loads((folder / "special_tokens.json").read_text(encoding="utf-8"))
    names = [entry if isinstance(entry, str) else entry["content"] for entry in entries]
    special = {name: len(ranks) + place for place, name in enumerate(names)}
    encoding = tiktoken.Encoding("small", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    return Library(
        special.get,
        lambda number: encoding.decode([number]),
        lambda text: encoding.encode(text, allowed_special="all"),
    )
