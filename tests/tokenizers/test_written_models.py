"""Contract: the tokenizer.model that we write is, for the library that runs it, the one that we read."""

from dataclasses import replace
from hashlib import sha256

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_convert.convert.tokenizers.model_proto import write_sentencepiece
from llama_convert.convert.tokenizers.sentencepiece import read_sentencepiece
from llama_convert.convert.tokenizers.tiktoken import read_tiktoken, write_tiktoken
from llama_convert.convert.tokenizers.wire import content_field, fields, float32_field, integer_field

LLAMA_3 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"  # of Meta's tokenizer.model
REPETITIVE = ["aba", "ab", "a", "--", "-", "  ", "▁", "nan", "an", "<sym>", "1"]


def library(path):
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def test_the_real_tiktoken_file_is_written_byte_for_byte(tmp_path, vocabulary):
    write_tiktoken(tmp_path / "tokenizer.model", vocabulary)
    assert sha256((tmp_path / "tokenizer.model").read_bytes()).hexdigest() == LLAMA_3


def test_a_small_tiktoken_file_comes_back(tmp_path, small_ranks):
    write_tiktoken(tmp_path / "tokenizer.model", small_ranks.vocabulary)
    assert read_tiktoken(tmp_path / "tokenizer.model") == small_ranks.vocabulary


@pytest.fixture
def written(tmp_path, small_model):
    path = tmp_path / "tokenizer.model"
    write_sentencepiece(path, read_sentencepiece(small_model))
    return path


def test_a_model_comes_back(small_model, written):
    assert read_sentencepiece(written) == read_sentencepiece(small_model)


def test_the_library_gives_the_same_ids_and_text(small_model, written, hard_strings):
    ours, theirs = library(written), library(small_model)
    for text in hard_strings:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids), text


def test_the_library_gives_the_same_ids_for_any_text(small_model, written):
    ours, theirs = library(written), library(small_model)

    @settings(max_examples=500, deadline=None)
    @given(st.lists(st.sampled_from(REPETITIVE), max_size=20).map("".join) | st.text(max_size=30))
    def check(text):
        assert ours.encode(text) == theirs.encode(text)

    check()


def test_the_library_finds_the_same_pieces(small_model, written):
    ours, theirs = library(written), library(small_model)
    tasks = ("bos_id", "eos_id", "unk_id", "pad_id", "get_piece_size")
    assert [getattr(ours, task)() for task in tasks] == [getattr(theirs, task)() for task in tasks]
    for i in range(theirs.get_piece_size()):
        assert (ours.id_to_piece(i), ours.get_score(i)) == (theirs.id_to_piece(i), theirs.get_score(i))
        assert (ours.is_control(i), ours.is_byte(i), ours.is_unknown(i)) == (
            theirs.is_control(i),
            theirs.is_byte(i),
            theirs.is_unknown(i),
        )


def test_a_piece_without_a_task_does_not_get_one(tmp_path, small_model):
    """<s> and </s> are control pieces, but this vocabulary says that no text begins or ends with them."""
    vocabulary = replace(read_sentencepiece(small_model), begin=None, end=None)
    write_sentencepiece(tmp_path / "tokenizer.model", vocabulary)
    assert read_sentencepiece(tmp_path / "tokenizer.model") == vocabulary
    found = library(tmp_path / "tokenizer.model")
    assert (found.bos_id(), found.eos_id()) == (-1, -1)


def test_control_with_other_scores_the_library_gives_other_ids(tmp_path, small_model, hard_strings):
    """What is compared above depends on the scores."""
    vocabulary = read_sentencepiece(small_model)
    turned = tuple(replace(piece, score=-piece.score) for piece in vocabulary.pieces)
    write_sentencepiece(tmp_path / "tokenizer.model", replace(vocabulary, pieces=turned))
    ours, theirs = library(tmp_path / "tokenizer.model"), library(small_model)
    assert [ours.encode(text) for text in hard_strings] != [theirs.encode(text) for text in hard_strings]


@given(st.integers(1, 2**28), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=200), st.floats(width=32))
def test_fields_come_back(number, integer, content, value):
    message = integer_field(number, integer) + content_field(number, content) + float32_field(number, value)
    first, second, third = fields(message)
    assert [field.number for field in (first, second, third)] == [number] * 3
    assert (first.integer(), second.content()) == (integer, content)
    assert third.float32() == value or value != value  # NaN is no number, itself included
