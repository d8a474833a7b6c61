"""Contract: the values are those of llama.cpp's own converter, and are read back or refused with all the reasons."""

import time
from pathlib import Path

import gguf
import pytest
from gguf.vocab import BpeVocab, LlamaHfVocab, SentencePieceVocab, SpecialVocab

from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.tokenizers.gguf_reading import read_gguf_vocabulary
from llama_convert.convert.tokenizers.gguf_vocabulary import gguf_vocabulary
from llama_convert.convert.tokenizers.sentencepiece import PieceKind, read_sentencepiece

PATH = Path("model.gguf")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def key(name):
    return f"tokenizer.ggml.{name}"


@pytest.fixture
def ranks_values(small_ranks):
    return gguf_vocabulary(small_ranks.vocabulary, small_ranks.special, rows=768, begin=512, end=513)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, plain_model):
    path = tmp_path_factory.mktemp("plain") / "tokenizer.model"
    path.write_bytes(plain_model)
    return path


@pytest.fixture
def pieces_values(plain):
    return gguf_vocabulary(read_sentencepiece(plain), rows=700, begin=1, end=2)


def test_the_real_llama_3_is_what_llama_cpps_converter_writes(real_ranks, llama_3_folder):
    values = gguf_vocabulary(real_ranks.vocabulary, real_ranks.special, rows=128_256, begin=128_000, end=128_009)
    theirs = SpecialVocab(llama_3_folder, load_merges=True)
    assert len(theirs.merges) == 280_147
    assert values[key("merges")] == theirs.merges
    assert theirs.special_token_ids == {"bos": values[key("bos_token_id")], "eos": values[key("eos_token_id")]}
    assert theirs.add_special_token["bos"] is values[key("add_bos_token")] is True
    texts, _, kinds = zip(*BpeVocab(llama_3_folder).all_tokens(), strict=True)
    assert values[key("tokens")][:128_000] == list(texts[:128_000])
    assert values[key("tokens")][128_000:] == [text.decode() for text in texts[128_000:]]
    assert values[key("token_type")] == [int(kind) for kind in kinds]
    assert (values[key("model")], values[key("pre")]) == ("gpt2", "llama-bpe")


def test_the_real_llama_3_comes_back_and_takes_no_time(real_ranks):
    started = time.process_time()
    values = gguf_vocabulary(real_ranks.vocabulary, real_ranks.special, rows=128_256, begin=128_000, end=128_009)
    assert time.process_time() - started < 2.5  # 0.6 s, and room for a machine at its limit
    assert read_gguf_vocabulary(PATH, values) == real_ranks


def test_a_model_is_what_llama_cpps_converter_writes(plain):
    """Its converter does not ask which pieces are user-defined, so this is a model without."""
    values = gguf_vocabulary(read_sentencepiece(plain), rows=700, begin=1, end=2)
    tokens, scores, kinds = zip(*SentencePieceVocab(plain.parent).all_tokens(), strict=True)
    assert values[key("tokens")] == [token.decode() for token in tokens]
    assert values[key("scores")] == list(scores)
    assert values[key("token_type")] == [int(kind) for kind in kinds]
    assert list(values)[:5] == [key(name) for name in ("model", "pre", "tokens", "scores", "token_type")]
    assert {name: values[key(name)] for name in ("model", "pre", "bos_token_id", "eos_token_id")} == {
        "model": "llama",
        "pre": "default",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    assert values[key("unknown_token_id")] == 0
    assert (values[key("add_bos_token")], values[key("add_eos_token")]) == (True, False)
    assert key("add_space_prefix") not in values


def test_every_kind_of_model_comes_back(small_model):
    vocabulary = read_sentencepiece(small_model)
    rows = len(vocabulary.pieces) + 5
    if not vocabulary.byte_fallback:
        with pytest.raises(UsageError, match="without byte pieces"):
            gguf_vocabulary(vocabulary, rows=rows, begin=1, end=2)
        return
    values = gguf_vocabulary(vocabulary, rows=rows, begin=1, end=2)
    assert values.get(key("add_space_prefix"), True) == vocabulary.add_dummy_prefix
    assert values.get(key("padding_token_id")) == vocabulary.pad
    assert read_gguf_vocabulary(PATH, values).vocabulary == vocabulary


def test_user_defined_pieces_stand_there_with_spaces(small_model):
    vocabulary = read_sentencepiece(small_model)
    if "▁<PRE>" in vocabulary.ids(PieceKind.USER_DEFINED):
        values = gguf_vocabulary(vocabulary, rows=700, begin=1, end=2)
        place = vocabulary.ids()["▁<PRE>"]
        assert (values[key("tokens")][place], values[key("token_type")][place]) == (" <PRE>", USER_DEFINED)


def test_rows_behind_the_last_token_are_fillers(ranks_values, small_ranks):
    values = gguf_vocabulary(small_ranks.vocabulary, small_ranks.special, rows=770, begin=512, end=513, pad=516)
    assert values[key("tokens")] == [*ranks_values[key("tokens")], "[PAD768]", "[PAD769]"]
    assert values[key("token_type")][-3:] == [CONTROL, UNUSED, UNUSED]
    assert values[key("padding_token_id")] == 516
    assert read_gguf_vocabulary(PATH, values) == small_ranks


@pytest.mark.parametrize("kind", [UNUSED, UNKNOWN, USER_DEFINED])
def test_older_fillers_are_fillers(ranks_values, pieces_values, small_ranks, plain, kind):
    ranks_values[key("tokens")] += ["[PAD768]"]
    ranks_values[key("token_type")] += [kind]
    assert read_gguf_vocabulary(PATH, ranks_values) == small_ranks
    pieces_values[key("tokens")] += ["[PAD700]"]
    pieces_values[key("token_type")] += [kind]
    pieces_values[key("scores")] += [-10000.0]
    assert read_gguf_vocabulary(PATH, pieces_values).vocabulary == read_sentencepiece(plain)


def test_fewer_rows_than_tokens_are_refused(small_ranks, plain):
    with pytest.raises(CheckpointError, match="768 tokens, the embedding 767 rows"):
        gguf_vocabulary(small_ranks.vocabulary, small_ranks.special, rows=767, begin=512, end=513)
    with pytest.raises(CheckpointError, match="700 tokens, the embedding 699 rows"):
        gguf_vocabulary(read_sentencepiece(plain), rows=699, begin=1, end=2)


WRITERS = {
    "model": "add_tokenizer_model",
    "pre": "add_tokenizer_pre",
    "tokens": "add_token_list",
    "scores": "add_token_scores",
    "token_type": "add_token_types",
    "merges": "add_token_merges",
    "bos_token_id": "add_bos_token_id",
    "eos_token_id": "add_eos_token_id",
    "unknown_token_id": "add_unk_token_id",
    "padding_token_id": "add_pad_token_id",
    "add_bos_token": "add_add_bos_token",
    "add_eos_token": "add_add_eos_token",
}


@pytest.mark.parametrize("name", ["ranks_values", "pieces_values"])
def test_through_a_file_of_the_gguf_library_nothing_changes(name, request, tmp_path):
    values = request.getfixturevalue(name)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    for name, value in values.items():
        getattr(writer, WRITERS[name.removeprefix("tokenizer.ggml.")])(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    found = {name: fields[name].contents() for name in values}
    assert found == values
    assert read_gguf_vocabulary(PATH, found) == read_gguf_vocabulary(PATH, values)


@pytest.mark.parametrize("pre", ["llama3", "llama-v3", "smaug-bpe"])
def test_other_names_of_llama_3s_pattern(ranks_values, small_ranks, pre):
    assert read_gguf_vocabulary(PATH, ranks_values | {key("pre"): pre}) == small_ranks


def test_kinds_of_a_converter_that_looked_into_tokenizer_config(pieces_values, plain):
    """It makes every added token a control token with the score -1000, the unknown one too."""
    for i in range(3):
        pieces_values[key("token_type")][i] = CONTROL
        pieces_values[key("scores")][i] = -1000.0
    assert read_gguf_vocabulary(PATH, pieces_values).vocabulary == read_sentencepiece(plain)


def refusal(values):
    with pytest.raises(CheckpointError) as caught:
        read_gguf_vocabulary(PATH, values)
    assert str(PATH) in caught.value.summary
    assert "\n" not in caught.value.summary
    assert caught.value.advice
    return " / ".join([caught.value.summary, *caught.value.problems])


def put(name, place, value):
    def change(values):
        values[key(name)][place] = value

    return change


def set_to(name, value):
    def change(values):
        values[key(name)] = value

    return change


def swap_merges(values):
    merges = values[key("merges")]
    merges[3], merges[4] = merges[4], merges[3]


RANKS = [
    (set_to("model", "bert"), "its tokenizer.ggml.model is 'bert', wanted 'gpt2' or 'llama'"),
    (set_to("model", None), "its tokenizer.ggml.model is None"),
    (set_to("pre", "qwen2"), "its pre-tokenizer is 'qwen2', wanted 'llama-bpe'"),
    (set_to("pre", "default"), "its pre-tokenizer is 'default'"),
    (set_to("pre", None), "its pre-tokenizer is None"),
    (set_to("tokens", None), "tokenizer.ggml.tokens is missing"),
    (set_to("tokens", "abc"), "tokenizer.ggml.tokens is no list of str"),
    (set_to("merges", [1, 2]), "tokenizer.ggml.merges is no list of str"),
    (set_to("token_type", [NORMAL] * 512 + [CONTROL] * 255), "it has 768 tokens and 767 token types"),
    (put("token_type", 3, 9), "there is no token type 9"),
    (put("token_type", 600, NORMAL), "token 600, '<|reserved_special_token_80|>', is normal, wanted control"),
    (put("token_type", 3, BYTE), "token 3, '$', is byte, wanted normal"),
    (put("tokens", 300, "a b"), "token 300: 'a b' has a character that stands for no byte"),
    (put("tokens", 300, "!"), "1 tokens are there twice"),
    (put("tokens", 0, "!!"), "1 of the 256 single bytes are missing, the first is 0x21"),
    (put("tokens", 600, "<|eot_id|>"), "1 special tokens have the name of another"),
    (put("merges", 3, "q w"), "merge 3 is 'q w', its tokens demand"),
    (swap_merges, "merge 3 is"),
    (lambda values: values[key("merges")].pop(), "merges, its tokens demand"),
]
PIECES = [
    (set_to("pre", "llama-bpe"), "its pre-tokenizer is 'llama-bpe', wanted 'default'"),
    (set_to("scores", None), "tokenizer.ggml.scores is missing"),
    (set_to("scores", [0.0]), "it has 700 tokens and 1 scores"),
    (set_to("scores", [-1000.0] * 700), "all its pieces have the score -1000.0: it was converted without"),
    (put("scores", 300, float("nan")), "has the score nan"),
    (put("tokens", 300, "<s>"), "piece 300, '<s>', is also piece 1"),
    (put("tokens", 300, ""), "piece 300 is empty"),
    (put("token_type", 300, UNUSED), "1 of its pieces are unused"),
    (put("token_type", 300, UNKNOWN), "it has 2 unknown pieces, not 1"),
    (put("token_type", 0, NORMAL), "it has 0 unknown pieces, not 1"),
    (put("token_type", 5, NORMAL), "it has 255 of the 256 byte pieces"),
]


@pytest.mark.parametrize(("change", "words"), RANKS)
def test_what_is_no_llama_3_is_refused(ranks_values, change, words):
    change(ranks_values)
    assert words in refusal(ranks_values)


@pytest.mark.parametrize(("change", "words"), PIECES)
def test_what_is_no_llama_2_is_refused(pieces_values, change, words):
    change(pieces_values)
    assert words in refusal(pieces_values)


def test_control_another_score_is_another_vocabulary(pieces_values, plain):
    """A GGUF file has no merges to hold a score against; but it does not go unseen."""
    pieces_values[key("scores")][300] -= 0.5
    assert read_gguf_vocabulary(PATH, pieces_values).vocabulary != read_sentencepiece(plain)


def test_a_file_that_was_made_of_a_tokenizer_json_alone_has_no_scores(plain, write_folder, tmp_path):
    """The case behind the refusal of equal scores: llama.cpp's converter without a tokenizer.model."""
    folder = write_folder(tmp_path, read_sentencepiece(plain), (), version="2", instruct=False)
    _, scores, kinds = zip(*LlamaHfVocab(folder).all_tokens(), strict=True)
    assert {score for score, kind in zip(scores, kinds, strict=True) if kind == NORMAL} == {-1000.0}
