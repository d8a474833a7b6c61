"""A tokenizer's file by itself, wherever it lies."""

from __future__ import annotations

from pathlib import Path

from llama_convert.convert.checkpoint import Conventions, TokenizerFile
from llama_convert.convert.containers.gguf import read_gguf
from llama_convert.convert.containers.slices import LocalFile
from llama_convert.convert.formats.gguf import conventions
from llama_convert.convert.formats.huggingface_tokens import read_conventions
from llama_convert.convert.tokenizers.kinds import TokenizerKind, recognise


def tokenizer_file(path: Path) -> TokenizerFile:
    """The tokenizer in this file, of whichever kind, and what is said of its use there or beside it.

    Raises CheckpointError where the file is no tokenizer, UsageError where there is none.
    """
    kind = recognise(path)
    return TokenizerFile(kind, path, _conventions(kind, path))


def _conventions(kind: TokenizerKind, path: Path) -> Conventions | None:
    if kind is TokenizerKind.GGUF:
        return conventions(read_gguf(LocalFile(path)).plain())
    return read_conventions(path.parent, {}) if kind is TokenizerKind.HUGGING_FACE else None
