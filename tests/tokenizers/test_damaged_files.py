"""Contract: a damaged tokenizer file, or another file in its place, gives one CheckpointError that says where."""

from base64 import b64encode
from contextlib import suppress

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.tokenizers.kinds import TokenizerKind, sniff
from llama_convert.convert.tokenizers.sentencepiece import read_sentencepiece
from llama_convert.convert.tokenizers.tiktoken import read_tiktoken
from llama_convert.convert.tokenizers.wire import WireError, fields

BYTES = [b64encode(bytes([value])) + b" %d" % value for value in range(256)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokenizer.model"


def problems(read, path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert str(path) in caught.value.summary
    assert caught.value.advice
    return " / ".join([caught.value.summary, *caught.value.problems])


def test_a_whole_file_is_read(path):
    path.write_bytes(b"\r\n".join(reversed(BYTES)) + b"\n\n" + b64encode(b" the") + b" 256")
    assert sniff(path) is TokenizerKind.TIKTOKEN
    assert read_tiktoken(path).tokens[-3:] == (b"\xfe", b"\xff", b" the")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([*BYTES, b"dGhl"], "line 257: not a token and a rank: b'dGhl'"),
        ([*BYTES, b"dGhl 256 1"], "line 257: not a token and a rank"),
        ([*BYTES, b"dG!l 256"], "line 257: the token is not base64"),
        ([*BYTES, b"dGh 256"], "line 257: the token is not base64"),
        ([*BYTES, b"dGhl 25x"], "line 257: the rank is not a number"),
        ([*BYTES, b"dGhl " + b"9" * 5000], "line 257: the rank is not a number"),
        ([*BYTES, b"dGhl -1"], "line 257: the rank is not a number"),
        ([*BYTES, b"dGhl 255"], "line 257: rank 255 is also on line 256"),
        ([*BYTES, b"QQ== 256"], "line 257: token b'A' is also on line 66"),
        ([*BYTES, b"dGhl 259"], "3 ranks below 260 are missing, the first is 256"),
        ([*BYTES, b"dGhl 999999999"], "999999743 ranks below 1000000000 are missing, the first is 256"),
        (BYTES[:-1], "1 of the 256 single bytes are missing, the first is 0xff"),
        ([], "256 of the 256 single bytes are missing"),
    ],
)
def test_a_damaged_line_is_named(path, lines, words):
    assert words in problems(read_tiktoken, path, b"\n".join(lines))


def test_many_problems_are_counted(path):
    told = problems(read_tiktoken, path, b"\n".join([*BYTES, *[b"?"] * 500]))
    assert "(500 problems)" in told
    assert "line 257" in told
    assert "... and 488 more" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"\n\n", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:9e55", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b'{"version": "1.0", "truncation": null}', "JSON, perhaps Hugging Face's tokenizer.json"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"GGUF\x03\x00", "a GGUF file"),
        (b"Entry not found", "something that starts with b'Entry not found'"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "something that starts with"),
    ],
)
def test_another_file_is_called_what_it_is(path, content, words):
    assert words in problems(sniff, path, content)


def test_no_file_is_a_mistake_of_the_request(path):
    for read in (sniff, read_tiktoken, read_sentencepiece):
        with pytest.raises(UsageError, match="cannot be read"):
            read(path)


def test_a_sentencepiece_model_is_recognised(path, plain_model):
    path.write_bytes(plain_model)
    assert sniff(path) is TokenizerKind.SENTENCEPIECE


def field(number, value):
    """A protobuf field as bytes: an integer, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


UNKNOWN = field(1, field(1, b"<unk>") + field(3, 2))
BPE = field(2, field(3, 2))
PLAIN = field(3, field(4, 0))


def test_a_minimal_model_is_read(path):
    path.write_bytes(UNKNOWN + BPE + PLAIN)
    found = read_sentencepiece(path)
    assert [piece.text for piece in found.pieces] == ["<unk>"]
    assert (found.unknown, found.begin, found.add_dummy_prefix, found.byte_fallback) == (0, None, True, False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (UNKNOWN + PLAIN, "its model type is unigram, not BPE"),
        (UNKNOWN + field(2, field(3, 4)) + PLAIN, "its model type is character, not BPE"),
        (UNKNOWN + BPE, "it removes extra spaces"),
        (UNKNOWN + BPE + PLAIN + field(3, field(1, b"nmt_nfkc") + field(2, b"rules")), "it normalises text"),
        (UNKNOWN + BPE + PLAIN + field(3, field(5, 0)), "it does not write spaces as"),
        (UNKNOWN + field(2, field(3, 2) + field(24, 1)) + PLAIN, "it adds its space at the end"),
        (UNKNOWN + field(1, field(1, b"x") + field(3, 5)) + BPE + PLAIN, "it has 1 unused pieces"),
        (UNKNOWN + field(1, field(1, b"a b")) + BPE + PLAIN, "1 of its pieces contain a space"),
        (UNKNOWN * 2 + BPE + PLAIN, "piece 1, '<unk>', is also piece 0 / it has 2 unknown pieces, not 1"),
        (field(1, field(1, b"a")) + BPE + PLAIN, "it has 0 unknown pieces, not 1"),
        (UNKNOWN + field(1, b"") + BPE + PLAIN, "piece 1 is empty"),
        (UNKNOWN + field(1, field(1, b"a") + b"\x15\x00\x00\xc0\x7f") + BPE + PLAIN, "has the score nan"),
        (UNKNOWN + field(2, field(3, 2) + field(35, 1)) + PLAIN, "it has 0 of the 256 byte pieces"),
        (UNKNOWN + field(1, field(1, b"<0x0A>") + field(3, 6)) + BPE + PLAIN, "and 1 others"),
        (field(1, field(3, 7)), "damaged at byte 0: piece: there is no piece type 7"),
        (UNKNOWN + field(1, field(1, b"\xff")), f"damaged at byte {len(UNKNOWN)}: piece: field 1 is not UTF-8"),
        (UNKNOWN + field(1, 5), "field 1 is an integer, not a string or message"),
        (UNKNOWN + field(1, field(2, 5)), "field 2 is an integer, not 4 bytes"),
        (UNKNOWN + b"\x0a\x7f", "a field of 127 bytes does not fit into the 0 left"),
        (UNKNOWN + b"\x0b", "no protobuf field has tag 11"),
        (UNKNOWN + b"\x00", "no protobuf field has tag 0"),
        (UNKNOWN + b"\x08" + b"\xff" * 11, "an integer has more than 64 bits"),
        (UNKNOWN + b"\x08\xff", "the data ends inside an integer"),
    ],
)
def test_what_is_wrong_with_a_model_is_told(path, content, words):
    assert words in problems(read_sentencepiece, path, content)


def test_the_library_does_not_load_the_damaged_ones_either():
    """The control: a model without an unknown piece is damage, not a taste of ours."""
    with pytest.raises((RuntimeError, OSError, ValueError)):
        sentencepiece.SentencePieceProcessor(model_proto=field(1, field(1, b"a")) + BPE + PLAIN)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_a_wire_error(data):
    try:
        found = list(fields(data))
    except WireError:
        return
    assert len(found) <= len(data) // 2


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_model_with_changed_bytes_is_read_or_refused(data, tmp_path_factory, plain_model):
    changed = bytearray(plain_model)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.sampled_from([len(changed), len(changed) // 2, len(changed) - 1]))
    path = tmp_path_factory.getbasetemp() / "changed.model"
    path.write_bytes(changed[:length])
    for read in (sniff, read_sentencepiece, read_tiktoken):
        with suppress(CheckpointError):
            read(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text("AQ=/+ 0123\n\r", max_size=100).map(str.encode))
def test_any_bytes_are_a_tokenizer_or_a_checkpoint_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.model"
    path.write_bytes(content)
    for read in (sniff, read_sentencepiece, read_tiktoken):
        with suppress(CheckpointError):
            read(path)
