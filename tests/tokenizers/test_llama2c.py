"""Contract: llama2.c's tokenizer.bin is written as its exporter does, and read back or refused with the reasons."""

from contextlib import suppress
from dataclasses import replace
from struct import pack

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.tokenizers.llama2c import read_tokenizer_bin, write_tokenizer_bin
from llama_convert.convert.tokenizers.sentencepiece import Piece, PieceKind, read_sentencepiece

ROWS = 700


def exported(model):
    """What karpathy/llama2.c's tokenizer.py makes of a model, written once more from its description."""
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    marks = {library.bos_id(): "\n<s>\n", library.eos_id(): "\n</s>\n"}
    texts = [marks.get(i, library.id_to_piece(i)) for i in range(library.get_piece_size())]
    entries = [(library.get_score(i), text.replace("▁", " ").encode()) for i, text in enumerate(texts)]
    longest = max(len(text) for _, text in entries)
    return pack("<I", longest) + b"".join(pack("<fI", score, len(text)) + text for score, text in entries)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokenizer.bin"


@pytest.fixture(scope="module")
def plain(tmp_path_factory, plain_model):
    path = tmp_path_factory.mktemp("plain") / "tokenizer.model"
    path.write_bytes(plain_model)
    return read_sentencepiece(path)


def test_it_is_what_the_exporter_writes(path, plain, plain_model):
    write_tokenizer_bin(path, plain)
    assert path.read_bytes() == exported(plain_model)


def test_it_comes_back(path, plain):
    write_tokenizer_bin(path, plain)
    assert read_tokenizer_bin(path, ROWS) == plain


def test_models_that_the_c_programs_would_run_otherwise_are_refused(path, small_model, plain):
    vocabulary = read_sentencepiece(small_model)
    if vocabulary == plain:
        return
    with pytest.raises(UsageError, match=r"cannot be written as llama2.c's tokenizer\.bin"):
        write_tokenizer_bin(path, vocabulary)
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [("<|im_start|>", PieceKind.USER_DEFINED, "is user_defined"), ("\u2665", PieceKind.CONTROL, "is control")],
)
def test_an_added_piece_that_text_would_give_is_refused_by_its_name(path, plain, text, kind, words):
    added = Piece(text=text, score=0.0, kind=kind)
    with pytest.raises(UsageError) as caught:
        write_tokenizer_bin(path, replace(plain, pieces=(*plain.pieces, added)))
    assert caught.value.problems == (f"piece {ROWS}, {text!r}, {words}, wanted normal",)


def test_an_added_control_piece_has_the_score_that_no_merge_has_to_beat(path, plain):
    """In run.c: `float best_score = -1e10;`, and a merge is made where its score is larger."""
    longer = replace(plain, pieces=(*plain.pieces, Piece(text="<pad>", score=0.0, kind=PieceKind.CONTROL)))
    write_tokenizer_bin(path, longer)
    assert path.read_bytes()[-13:] == pack("<fI", -1e10, 5) + b"<pad>"
    assert read_tokenizer_bin(path, ROWS + 1) == longer


def refusal(path, content, rows=ROWS):
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer_bin(path, rows)
    assert str(path) in caught.value.summary
    assert "\n" not in caught.value.summary
    assert caught.value.advice
    return " / ".join([caught.value.summary, *caught.value.problems])


def test_another_number_of_rows_is_noticed(path, plain_model):
    content = exported(plain_model)
    assert "bytes, its 699 entries, one for each row" in refusal(path, content, ROWS - 1)
    assert "entry 700 of 701" in refusal(path, content, ROWS + 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1], "entry 699 of 700"),
        (lambda data: data + b"\x00", "one for each row of the embedding"),
        (lambda data: b"", "entry 0 of 700"),
        (lambda data: b"\xff" + data[1:], "it says its longest piece has"),
        (lambda data: data.replace(b"<unk>", b"<ukn>"), "entry 0 is '<ukn>', wanted '<unk>'"),
        (lambda data: data.replace(b"<0x41>", b"<0x40>"), "entry 68 is '<0x40>', wanted '<0x41>'"),
        (lambda data: data.replace(b"\n<s>\n", b" <s> "), "entry 1 is ' <s> ', wanted '\\n<s>\\n'"),
        (lambda data: data[:-1] + b"\xff", "entry 699 of 700"),
        (lambda data: data[:-9] + pack("<fI", float("nan"), 1) + data[-1:], "has the score nan"),
    ],
)
def test_a_damaged_file_is_refused(path, plain_model, change, words):
    assert words in refusal(path, change(exported(plain_model)))


def test_control_another_score_is_another_vocabulary(path, plain, plain_model):
    content = bytearray(exported(plain_model))
    content[-9:-5] = pack("<f", 3.5)
    path.write_bytes(content)
    assert read_tokenizer_bin(path, ROWS) != plain


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_are_a_vocabulary_or_one_error(data, plain_model, tmp_path_factory):
    content = bytearray(exported(plain_model))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.bin"
    path.write_bytes(content)
    with suppress(CheckpointError):
        read_tokenizer_bin(path, ROWS)
