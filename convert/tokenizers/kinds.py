"""Which kind of tokenizer file this is, read from its first bytes, never from its name."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from llama_convert.convert.containers.lookalikes import refuse_lookalike
from llama_convert.convert.errors import CheckpointError
from llama_convert.convert.tokenizers.problems import read_bytes
from llama_convert.convert.tokenizers.wire import WireError, read_varint

HEAD = 4096
FIRST_LINE = re.compile(rb"[A-Za-z0-9+/=]+ \d+[ \t\r]*(\n|$)")
TOP_LEVEL_TAGS = (0x0A, 0x12, 0x1A)  # pieces, trainer_spec, normalizer_spec: fields 1, 2, 3 with a length
_GGUF, _JSON = re.compile(rb"GGUF"), re.compile(rb"\s*\{")
# The length of the longest piece; the first piece's score and length; and the piece.
_LLAMA2C = re.compile(rb".{4}.{4}\x05\0\0\0<unk>", re.DOTALL)
KNOWN_AS = (
    (re.compile(rb"\s*[{\[]"), "JSON, perhaps Hugging Face's tokenizer.json"),
    (re.compile(rb"PK\x03\x04"), "a zip archive, perhaps a .pth file of weights"),
    (re.compile(rb"GGUF"), "a GGUF file"),
)


class TokenizerKind(Enum):
    """What a tokenizer file is.

    Meta's tokenizer.model is of one of two kinds: TIKTOKEN for Llama 3 and later, SENTENCEPIECE for
    Llama 1, Llama 2 and Code Llama. HUGGING_FACE is a tokenizer.json, GGUF the tokenizer.ggml values in the
    head of a GGUF file, LLAMA2C the table of scores and pieces that llama2.c reads.
    """

    TIKTOKEN = "tiktoken ranks"
    SENTENCEPIECE = "SentencePiece model"
    HUGGING_FACE = "tokenizer.json"
    GGUF = "GGUF vocabulary"
    LLAMA2C = "llama2.c tokenizer.bin"


def sniff(path: Path) -> TokenizerKind:
    """The kind of the tokenizer file at `path`, from its first 4 kB.

    Raises CheckpointError where it is neither kind, and says what it is instead; UsageError where there is
    no such file. A file of the right kind may still be damaged: the readers tell.
    """
    head = read_bytes(path, HEAD)
    refuse_lookalike(path, head, "a tokenizer")  # first: a blank line and a tag could begin a SentencePiece model
    if FIRST_LINE.match(head):
        return TokenizerKind.TIKTOKEN
    if _is_model_proto(head):
        return TokenizerKind.SENTENCEPIECE
    raise CheckpointError(
        f"{path}: not a tokenizer of a Llama, but {_description(head)}.",
        advice="Llama 3 and later have lines of base64 and rank, Llama 1 and 2 a SentencePiece model; "
        "download tokenizer.model again.",
    )


def recognise(path: Path) -> TokenizerKind:
    """The kind of a file that may be of any, from its first 4 kB.

    Raises CheckpointError where it is of none, UsageError where there is no such file.
    """
    head = read_bytes(path, HEAD)
    known = ((_GGUF, TokenizerKind.GGUF), (_JSON, TokenizerKind.HUGGING_FACE), (_LLAMA2C, TokenizerKind.LLAMA2C))
    return next((kind for pattern, kind in known if pattern.match(head)), None) or sniff(path)


def _is_model_proto(head: bytes) -> bool:
    """Whether a top-level field of a SentencePiece model starts here, with a message inside it."""
    if not head or head[0] not in TOP_LEVEL_TAGS:
        return False
    try:
        length, start = read_varint(head, 1)
    except WireError:
        return False
    return length > 1 and start < len(head) and head[start] >> 3 > 0 and head[start] & 7 in (0, 1, 2, 5)


def _description(head: bytes) -> str:
    if not head.strip():
        return "an empty file"
    for pattern, name in KNOWN_AS:
        if pattern.match(head):
            return name
    return f"something that starts with {head[:24]!r}"
