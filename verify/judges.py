"""A checkpoint's tokenizer, ready to run, whatever its kind."""

from __future__ import annotations

from collections.abc import Sequence

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.special_names import read_special_names
from llama_convert.convert.tokenizers.kinds import TokenizerKind
from llama_convert.convert.tokenizers.special_tokens import special_tokens
from llama_convert.verify.tokenizer_inside import gguf_judge, llama2c_judge
from llama_convert.verify.tokenizer_judges import Judge, sentencepiece_judge, tiktoken_judge, tokenizers_judge


def open_judge(checkpoint: Checkpoint, names: Sequence[str] | None = None) -> Judge:
    """The checkpoint's tokenizer.

    names: of the special tokens behind a tiktoken file's ranks; None for those of the file beside it, or of the
    checkpoint's version.
    Raises CheckpointError: there is none, or its library cannot read it. MissingLibrary: sentencepiece is
    not installed.
    """
    file, rows = checkpoint.tokenizer, checkpoint.config.vocab_size
    if file is None:
        raise CheckpointError(f"{checkpoint.path}: no tokenizer", advice="Put its tokenizer file beside the weights.")
    if file.kind is TokenizerKind.TIKTOKEN:
        names = names or read_special_names(file.path.parent) or special_tokens(checkpoint.version.name)
        return tiktoken_judge(file.path, rows, names)
    if file.kind is TokenizerKind.LLAMA2C:
        return llama2c_judge(file.path, rows)
    alone = {
        TokenizerKind.SENTENCEPIECE: sentencepiece_judge,
        TokenizerKind.HUGGING_FACE: tokenizers_judge,
        TokenizerKind.GGUF: gguf_judge,
    }
    return alone[file.kind](file.path)
