"""Contract: our tokenizer.json gives the ids that the sentencepiece library gives, for Llama 1, 2 and Code Llama."""

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llama_convert.convert.tokenizers.sentencepiece import PieceKind, read_sentencepiece

ALPHABET = "ab ▁\n\t.<sym>PRE</0xAkalomitreé漢🦙\x000129()'  "
PARTS = [
    "ab",
    " ",
    "  ",
    "▁",
    "<sym>",
    "<sy",
    "<PRE>",
    "▁<PRE>",
    " <PRE>",
    "ab.c",
    "ab",
    "kalo",
    "é",
    "\n",
    "🦙",
    "12",
]
TEXTS = st.text(st.sampled_from(ALPHABET), max_size=40) | st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
BEGIN_ID = 1
SPECIAL = ["<unk>", "<s>", "</s>", "<step>"]  # by design read as tokens, which the library never does


def library(model):
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=model)


@pytest.fixture(scope="module")
def convert(tmp_path_factory, write_folder):
    """A function that converts a model and opens the result with `tokenizers`."""
    from tokenizers import Tokenizer

    def converted(model):
        folder = tmp_path_factory.mktemp("model")
        (folder / "tokenizer.model").write_bytes(model)
        vocabulary = read_sentencepiece(folder / "tokenizer.model")
        (folder / "tokenizer.model").unlink()
        write_folder(folder, vocabulary, (), version="2", instruct=False)
        return Tokenizer.from_file(str(folder / "tokenizer.json")), folder

    return converted


@pytest.fixture(scope="module", params=["plain", "symbols", "no_prefix"])
def pair(request, convert, train, plain_model, symbols_model):
    """The library's tokenizer and ours of the same model."""
    model = {"plain": plain_model, "symbols": symbols_model}.get(request.param)
    if model is None:
        model = train(add_dummy_prefix=False, user_defined_symbols=["<sym>"])
    return library(model), convert(model)[0]


def test_hard_strings_have_the_librarys_ids(pair, hard_strings, request):
    theirs, ours = pair
    for text in [*hard_strings, *PARTS]:
        assert ours.encode(text).ids == [BEGIN_ID, *theirs.encode(text)], text


def test_what_the_library_decodes_ours_decodes(pair, hard_strings):
    theirs, ours = pair
    for text in hard_strings:
        ids = theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids), text


def test_any_text_has_the_librarys_ids(pair):
    theirs, ours = pair

    @settings(max_examples=2000, deadline=None)
    @given(TEXTS | st.text(st.characters(codec="utf-8"), max_size=20))
    def check(text):
        assume(not any(special in text for special in SPECIAL))
        assert ours.encode(text).ids == [BEGIN_ID, *theirs.encode(text)]

    check()


def test_control_without_the_prefix_ids_differ(convert, plain_model, hard_strings):
    from tokenizers import Tokenizer

    _, folder = convert(plain_model)
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert whole["normalizer"]["normalizers"].pop(0) == {"type": "Prepend", "prepend": "▁"}
    wrong, theirs = Tokenizer.from_str(json.dumps(whole)), library(plain_model)
    differing = [text for text in hard_strings if wrong.encode(text).ids != [BEGIN_ID, *theirs.encode(text)]]
    assert len(differing) > len(hard_strings) // 2


def test_control_symbols_as_added_tokens_ids_differ(convert, symbols_model):
    """The usual way to write user-defined pieces gives the text behind each of them a prefix of its own."""
    from tokenizers import AddedToken, Tokenizer

    _, folder = convert(symbols_model)
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    whole["pre_tokenizer"] = None
    wrong, theirs = Tokenizer.from_str(json.dumps(whole)), library(symbols_model)
    wrong.add_tokens([AddedToken("<sym>", normalized=False)])
    assert wrong.encode("ka<sym>lo").ids != [BEGIN_ID, *theirs.encode("ka<sym>lo")]


def test_transformers_reads_the_folder(convert, plain_model, hard_strings):
    from transformers import AutoTokenizer

    _, folder = convert(plain_model)
    tokenizer, theirs = AutoTokenizer.from_pretrained(folder), library(plain_model)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer.pad_token_id is None
    for text in hard_strings:
        assert tokenizer(text)["input_ids"] == [BEGIN_ID, *theirs.encode(text)], text
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == theirs.encode(text), text


def test_kinds_scores_and_ids_are_the_librarys(tmp_path, symbols_model):
    (tmp_path / "tokenizer.model").write_bytes(symbols_model)
    found, theirs = read_sentencepiece(tmp_path / "tokenizer.model"), library(symbols_model)
    questions = {
        PieceKind.UNKNOWN: theirs.is_unknown,
        PieceKind.CONTROL: theirs.is_control,
        PieceKind.BYTE: theirs.is_byte,
        PieceKind.UNUSED: theirs.is_unused,
    }
    assert len(found.pieces) == theirs.get_piece_size()
    for i, piece in enumerate(found.pieces):
        assert piece.text == theirs.id_to_piece(i)
        assert piece.score == theirs.get_score(i)
        assert [kind for kind, holds in questions.items() if holds(i)] == [piece.kind] * (piece.kind in questions)
    assert (found.begin, found.end, found.unknown) == (theirs.bos_id(), theirs.eos_id(), theirs.unk_id())
    assert found.pad is None
    assert theirs.pad_id() == -1
