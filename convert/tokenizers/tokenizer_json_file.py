"""Hugging Face's tokenizer.json, read as what Meta's tokenizer files say."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from llama_convert.convert.tokenizers.added import NamedVocabulary
from llama_convert.convert.tokenizers.tokenizer_json_document import Document, read_document, refuse
from llama_convert.convert.tokenizers.tokenizer_json_pieces import is_pieces, read_pieces
from llama_convert.convert.tokenizers.tokenizer_json_ranks import is_byte_level, read_ranks


def read_tokenizer_json(path: Path) -> NamedVocabulary:
    """The vocabulary of a tokenizer.json, where it is one that Meta's kinds of file can express.

    Byte-level BPE is Llama 3's kind, with the added tokens as names of the ids behind the ranks; BPE with
    spaces written as ▁ is that of Llama 1 and 2. It is proven, not taken on trust: the steps before and after
    the merges, and every merge, are those that follow from the tokens (see `read_ranks`, `read_pieces`).
    Whatever `write_tokenizer_json` wrote is read back as it was, but for scores that no trainer gives and for
    `pad`, `begin` and `end` with unusual names: those are not in the file.
    Raises CheckpointError with every finding, and says what another tokenizer is; UsageError without a file.
    Cost: for Llama 3 0.7 s and 85 MB, the first time; the last file read is remembered while it does not change.
    """
    try:
        state = path.stat()
    except OSError:  # reading it says what is wrong
        return _read(path)
    return _remembered(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=1)
def _remembered(path: Path, state: tuple[int, int, int]) -> NamedVocabulary:
    """Choosing a token and writing it down both need the vocabulary."""
    return _read(path)


def _read(path: Path) -> NamedVocabulary:
    document = read_document(path)
    if is_byte_level(document):
        return read_ranks(document)
    if not is_pieces(document):
        refuse(path, [_description(document)])
    return read_pieces(document)


def _description(document: Document) -> str:
    """What a BPE tokenizer is that neither writes bytes as characters nor spaces as ▁."""
    names = {
        "normalizer": document.normalizer,
        "pre_tokenizer": document.pre_tokenizer,
        "decoder": document.decoder,
    }
    found = ", ".join(f"{name} {part.get('type') if part else 'none'}" for name, part in names.items())
    return f"its BPE model works neither on bytes nor on text with ▁ for spaces ({found})"
