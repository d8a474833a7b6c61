"""Law: through any two representations, one after the other, a vocabulary stays the same."""

from itertools import product

import pytest

from llama_convert.convert.tokenizers.added import NamedVocabulary
from llama_convert.convert.tokenizers.gguf_reading import read_gguf_vocabulary
from llama_convert.convert.tokenizers.gguf_vocabulary import gguf_vocabulary
from llama_convert.convert.tokenizers.llama2c import read_tokenizer_bin, write_tokenizer_bin
from llama_convert.convert.tokenizers.model_proto import write_sentencepiece
from llama_convert.convert.tokenizers.sentencepiece import read_sentencepiece
from llama_convert.convert.tokenizers.tiktoken import read_tiktoken, write_tiktoken
from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json
from llama_convert.convert.tokenizers.tokenizer_json_file import read_tokenizer_json


def through_tiktoken(tokens, folder):
    """The names of the special tokens are in no tiktoken file: they are given along."""
    write_tiktoken(folder / "tokenizer.model", tokens.vocabulary)
    return NamedVocabulary(vocabulary=read_tiktoken(folder / "tokenizer.model"), special=tokens.special)


def through_sentencepiece(tokens, folder):
    write_sentencepiece(folder / "tokenizer.model", tokens.vocabulary)
    return NamedVocabulary(vocabulary=read_sentencepiece(folder / "tokenizer.model"), special=())


def through_json(tokens, folder):
    write_tokenizer_json(folder / "tokenizer.json", tokens.vocabulary, tokens.special)
    return read_tokenizer_json(folder / "tokenizer.json")


def through_gguf(tokens, folder):
    count = len(tokens.vocabulary.tokens) if tokens.special else 1
    rows = count + 1000
    values = gguf_vocabulary(tokens.vocabulary, tokens.special, rows=rows, begin=count, end=count + 1)
    return read_gguf_vocabulary(folder / "model.gguf", values)


def through_bin(tokens, folder):
    write_tokenizer_bin(folder / "tokenizer.bin", tokens.vocabulary)
    rows = len(tokens.vocabulary.pieces)
    return NamedVocabulary(vocabulary=read_tokenizer_bin(folder / "tokenizer.bin", rows), special=())


RANKS = (through_tiktoken, through_json, through_gguf)
PIECES = (through_sentencepiece, through_json, through_gguf, through_bin)


@pytest.mark.parametrize(("first", "second"), list(product(RANKS, RANKS)))
@pytest.mark.parametrize("name", ["small_ranks", "real_ranks"])
def test_ranks_stay_the_same(name, first, second, request, tmp_path):
    tokens = request.getfixturevalue(name)
    assert second(first(tokens, tmp_path), tmp_path) == tokens


@pytest.mark.parametrize(("first", "second"), list(product(PIECES, PIECES)))
def test_pieces_stay_the_same(first, second, plain_model, tmp_path):
    (tmp_path / "source.model").write_bytes(plain_model)
    tokens = NamedVocabulary(vocabulary=read_sentencepiece(tmp_path / "source.model"), special=())
    assert second(first(tokens, tmp_path), tmp_path) == tokens


@pytest.mark.parametrize(("first", "second"), list(product(PIECES[:3], PIECES[:3])))
def test_symbols_stay_the_same(first, second, symbols_model, tmp_path):
    (tmp_path / "source.model").write_bytes(symbols_model)
    tokens = NamedVocabulary(vocabulary=read_sentencepiece(tmp_path / "source.model"), special=())
    assert second(first(tokens, tmp_path), tmp_path) == tokens
