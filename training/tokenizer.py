"""A small Llama 3 tokenizer: byte pairs learnt from the stories, written as Meta's `tokenizer.model`."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path

from tiktoken import Encoding
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

# How Llama 3 cuts text into pieces before it merges bytes: meta-llama/llama3 llama/tokenizer.py, pat_str.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = 256
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"


def train_ranks(texts: Iterable[str], size: int) -> dict[bytes, int]:
    """The 256 bytes in the order of GPT-2, then size - 256 merges in the order they were learnt."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return read_ranks_of(tokenizer, size)


def read_ranks_of(tokenizer: Tokenizer, size: int) -> dict[bytes, int]:
    """The vocabulary as bytes and ranks.

    Refuses one whose order of ids is not its order of merges, because tiktoken merges by rank alone.
    """
    model = json.loads(tokenizer.to_str())["model"]
    by_id = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merged = ["".join(pair) for pair in model["merges"]]
    if by_id[256:] != merged or len(by_id) != size:
        raise ValueError(f"{len(by_id)} tokens and {len(merged)} merges do not make a tiktoken file of {size} ranks")
    byte_of = bytes_of_printable_characters()
    return {bytes(byte_of[character] for character in token): rank for rank, token in enumerate(by_id)}


def bytes_of_printable_characters() -> dict[str, int]:
    """GPT-2 writes each byte as one printable character; this is the way back (openai/gpt-2 encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(hidden))]
    return dict(zip(characters, printable + hidden, strict=True))


def special_names() -> list[str]:
    """The 256 special tokens of Llama 3 in the order of their ids (3.1 renamed three reserved ones)."""
    named = {0: BEGIN, 1: END, 6: "<|start_header_id|>", 7: "<|end_header_id|>", 9: "<|eot_id|>"}
    unnamed = (place for place in range(SPECIAL_TOKENS) if place not in named)
    reserved = {place: f"<|reserved_special_token_{number}|>" for number, place in enumerate(unnamed)}
    names = named | reserved
    return [names[place] for place in range(SPECIAL_TOKENS)]


def make_encoding(ranks: dict[bytes, int]) -> Encoding:
    specials = {name: len(ranks) + place for place, name in enumerate(special_names())}
    return Encoding("llama-stories", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=specials)


def write_ranks(path: Path, ranks: dict[bytes, int]) -> None:
    """Write one `base64 rank` line per token; special tokens are not in the file, as in Meta's."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    path.write_text("".join(lines), encoding="ascii")


def read_ranks(path: Path) -> dict[bytes, int]:
    pairs = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}
