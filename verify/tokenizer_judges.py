"""Tokenizers as the libraries run them for which their files were made; nothing of the converter's.

tiktoken for Llama 3's ranks, sentencepiece for Llama 1 and 2, tokenizers for tokenizer.json.
"""

from __future__ import annotations

import functools
import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_convert.convert.errors import CheckpointError, ConvertError
from llama_convert.convert.tokenizers.problems import read_bytes
from llama_convert.convert.tokenizers.special_tokens import BEGIN

# meta-llama/llama-models models/llama3/tokenizer.py, pat_str. Written here once more, not taken from the
# converter: a mistake in its copy would agree with itself.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_BYTE_PIECE = re.compile(rb"<0x[0-9A-F]{2}>")
_SPACE = "\u2581".encode()


class MissingLibrary(ConvertError):
    """The library that runs a tokenizer is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A tokenizer, ready to run.

    library: that runs it. tokens: what each id stands for: raw bytes where the tokenizer works on bytes,
    else its text in UTF-8. special: names and ids. encode: ids of each text, with the begin token in front.
    reads_names: whether encode takes a special token's name in a text for the token; the others take it for text.
    encode_marked: for a tokenizer that does: ids of a text in which a name is the token only between two marks, given
    the mark, a character that is nowhere else in the text; no begin token in front.
    pieces: whether tokens are SentencePiece's texts, with \u2581 for a space and <0x0A> for a byte.
    """

    library: str
    path: Path
    tokens: Mapping[int, bytes]
    special: Mapping[str, int]
    encode: Callable[[Sequence[str]], list[list[int]]]
    decode: Callable[[Sequence[int]], str]
    reads_names: bool = False
    encode_marked: Callable[[str, str], list[int]] | None = None
    pieces: bool = False

    def bytes_of(self, number: int) -> bytes:
        """The bytes in a text for which the token stands; of a special token, its name."""
        token = self.tokens[number]
        if not self.pieces or number in self.special.values():
            return token
        return bytes([int(token[3:5], 16)]) if _BYTE_PIECE.fullmatch(token) else token.replace(_SPACE, b" ")

    def name_of(self, number: int | None) -> str:
        """What the token of this id is called; "" for none."""
        return "" if number is None else self.tokens.get(number, b"").decode(errors="replace")

    def words(self) -> list[str]:
        """Every ordinary token that is text by itself, as it stands in text."""
        special = set(self.special.values())
        found = (_text(token) for number, token in sorted(self.tokens.items()) if number not in special)
        return [text for text in found if text is not None]

    def names_special(self, text: str) -> bool:
        """Whether a special token's name is in it: libraries differ, by design, on what that means."""
        return "<" in text and any(name in text for name in self.special)


def _text(token: bytes) -> str | None:
    try:
        return token.decode().replace("\u2581", " ")
    except UnicodeDecodeError:
        return None


def unreadable(path: Path, library: str, error: Exception) -> CheckpointError:
    """What to raise where a library refuses a tokenizer's file."""
    return CheckpointError(f"{path}: {library} cannot read it: {error}", advice="Fetch or write the file again.")


def tiktoken_judge(path: Path, rows: int, names: Sequence[str]) -> Judge:
    """Llama 3's ranks. names: of the special tokens behind them, as many as the embedding has rows for."""
    import tiktoken

    try:
        lines = [line.split() for line in read_bytes(path).splitlines() if line]
        ranks = {b64decode(token): int(rank) for token, rank in lines}
        room = max(rows - len(ranks), 0)
        special = {name: len(ranks) + place for place, name in enumerate(names[:room])}
        encoding = tiktoken.Encoding(path.name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    except ValueError as error:
        raise unreadable(path, "tiktoken", error) from error
    begin = special.get(BEGIN)
    return Judge(
        library="tiktoken",
        path=path,
        tokens={rank: token for token, rank in ranks.items()} | {i: name.encode() for name, i in special.items()},
        special=special,
        encode=lambda texts: [
            [begin, *encoding.encode_ordinary(text)] if begin is not None else encoding.encode_ordinary(text)
            for text in texts
        ],
        decode=lambda ids: encoding.decode(list(ids)),
    )


def sentencepiece_judge(path: Path) -> Judge:
    """Llama 1's and 2's model. MissingLibrary: sentencepiece is not installed."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise MissingLibrary(
            "sentencepiece is not installed, and without it nothing can run this tokenizer",
            advice='pip install "llama-convert[sentencepiece]"',
        ) from error

    try:
        processor = SentencePieceProcessor(model_proto=read_bytes(path))
    except RuntimeError as error:
        raise unreadable(path, "sentencepiece", error) from error
    numbers = range(processor.get_piece_size())
    pieces = [processor.id_to_piece(number) for number in numbers]
    begin = processor.bos_id()
    return Judge(
        library="sentencepiece",
        path=path,
        tokens={number: piece.encode() for number, piece in enumerate(pieces)},
        special={
            pieces[number]: number for number in numbers if processor.is_control(number) or processor.is_unknown(number)
        },
        encode=lambda texts: [[begin, *ids] if begin >= 0 else ids for ids in processor.encode(list(texts))],
        decode=lambda ids: str(processor.decode(list(ids))),
        pieces=True,
    )


def tokenizers_judge(path: Path) -> Judge:
    """A tokenizer.json."""
    from tokenizers import Tokenizer, decoders

    content = read_bytes(path)
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises no narrower class
        raise unreadable(path, "tokenizers", error) from error
    added = tokenizer.get_added_tokens_decoder()
    byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
    ordinary = tokenizer.get_vocab(with_added_tokens=False).items()
    tokens = {number: text_bytes(text) if byte_level else text.encode() for text, number in ordinary}
    return Judge(
        library="tokenizers",
        path=path,
        tokens=tokens | {number: token.content.encode() for number, token in added.items()},
        special={token.content: number for number, token in added.items() if token.special},
        encode=lambda texts: [found.ids for found in _encoded(tokenizer, texts)],
        decode=lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True),
        reads_names=True,
        encode_marked=marked_encoder(tokenizer),
        pieces=not byte_level,
    )


def marked_encoder(tokenizer: Any) -> Callable[[str, str], list[int]]:
    """A Judge's `encode_marked`: by a copy of the tokenizer that takes names for text, but those between marks."""
    from tokenizers import AddedToken, Tokenizer

    special = {number: token for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}

    @functools.cache
    def copied(mark: str) -> tuple[Any, dict[int | None, int]]:
        copy = Tokenizer.from_str(tokenizer.to_str())
        copy.encode_special_tokens = True
        marked = {number: f"{mark}{token.content}{mark}" for number, token in special.items()}
        for number, one in special.items():
            ways = {"lstrip": one.lstrip, "rstrip": one.rstrip, "single_word": one.single_word}
            copy.add_tokens([AddedToken(marked[number], **ways, normalized=one.normalized)])
        return copy, {copy.token_to_id(name): number for number, name in marked.items()}

    def encode(text: str, mark: str) -> list[int]:
        copy, numbers = copied(mark)
        return [numbers.get(number, number) for number in copy.encode(text, add_special_tokens=False).ids]

    return encode


def _encoded(tokenizer: Any, texts: Sequence[str]) -> list[Any]:
    found: list[Any] = tokenizer.encode_batch(list(texts))
    return found


def text_bytes(text: str) -> bytes:
    """The raw bytes that a byte-level vocabulary writes as printable characters (GPT-2's bytes_to_unicode).

    Printable Latin-1 stands for itself, the other bytes in their order for U+0100 and up.
    """
    try:
        return bytes(_BYTES[character] for character in text)
    except KeyError:
        return text.encode()


_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_BYTES = {chr(value): value for value in _PRINTABLE} | {
    chr(0x100 + place): value for place, value in enumerate(sorted({*range(256)} - {*_PRINTABLE}))
}
