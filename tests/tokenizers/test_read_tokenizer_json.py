"""Contract: a tokenizer.json is read as the vocabulary that gives its ids, or refused with all the reasons."""

import json
from copy import deepcopy

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.tokenizers.model_proto import write_sentencepiece
from llama_convert.convert.tokenizers.sentencepiece import PieceKind, read_sentencepiece
from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json
from llama_convert.convert.tokenizers.tokenizer_json_file import read_tokenizer_json

REPETITIVE = ["aba", "ab", "a", "--", "-", "  ", " ", "nus", "n", "us", "1", "=", "(x"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokenizer.json"


@pytest.fixture(scope="module")
def ranks_document(small_ranks, tmp_path_factory):
    path = tmp_path_factory.mktemp("document") / "tokenizer.json"
    write_tokenizer_json(path, small_ranks.vocabulary, small_ranks.special)
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, plain_model):
    path = tmp_path_factory.mktemp("plain") / "tokenizer.model"
    path.write_bytes(plain_model)
    return read_sentencepiece(path)


@pytest.fixture(scope="module")
def pieces_document(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("document") / "tokenizer.json"
    write_tokenizer_json(path, plain)
    return json.loads(path.read_text(encoding="utf-8"))


def changed(document, change):
    """A copy of the document with one change made to it."""
    copy = deepcopy(document)
    change(copy)
    return json.dumps(copy)


def refusal(path, content):
    """Everything that is said about a file that is refused."""
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer_json(path)
    assert str(path) in caught.value.summary
    assert "\n" not in caught.value.summary
    assert caught.value.advice
    return " / ".join([caught.value.summary, *caught.value.problems])


def as_pairs(document):
    document["model"]["merges"] = [merge.split(" ") for merge in document["model"]["merges"]]


def saved(source, folder, *, added=(), **options):
    """The tokenizer.json that transformers saves, having read `source`."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source), **options)
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(folder)
    return folder / "tokenizer.json"


def test_the_real_llama_3_comes_back(llama_3_folder, real_ranks):
    assert read_tokenizer_json(llama_3_folder / "tokenizer.json") == real_ranks


def test_what_transformers_saves_of_the_real_llama_3_is_read(llama_3_folder, real_ranks, tmp_path):
    found = saved(llama_3_folder / "tokenizer.json", tmp_path, bos_token="<|begin_of_text|>")
    assert type(json.loads(found.read_text(encoding="utf-8"))["model"]["merges"][0]) is list
    assert read_tokenizer_json(found) == real_ranks


def test_a_model_comes_back(small_model, path):
    vocabulary = read_sentencepiece(small_model)
    write_tokenizer_json(path, vocabulary)
    assert read_tokenizer_json(path).vocabulary == vocabulary
    assert read_tokenizer_json(path).special == ()


def test_merges_may_be_pairs(ranks_document, pieces_document, small_ranks, plain, path):
    path.write_text(changed(ranks_document, as_pairs), encoding="utf-8")
    assert read_tokenizer_json(path) == small_ranks
    path.write_text(changed(pieces_document, as_pairs), encoding="utf-8")
    assert read_tokenizer_json(path).vocabulary == plain


def test_tokens_that_were_added_to_a_llama_3_are_names_behind_the_others(tmp_path, small_ranks):
    write_tokenizer_json(tmp_path / "source.json", small_ranks.vocabulary, small_ranks.special)
    found = read_tokenizer_json(saved(tmp_path / "source.json", tmp_path, added=["<|im_start|>"], pad_token="[PAD]"))
    assert found.vocabulary == small_ranks.vocabulary
    assert found.special == (*small_ranks.special, "[PAD]", "<|im_start|>")


def test_tokens_that_were_added_to_a_llama_2_are_pieces_behind_the_others(tmp_path, plain):
    write_tokenizer_json(tmp_path / "source.json", plain)
    found = read_tokenizer_json(saved(tmp_path / "source.json", tmp_path, added=["<|im_start|>"], pad_token="<pad>"))
    count = len(plain.pieces)
    assert found.vocabulary.pieces[:count] == plain.pieces
    assert [(piece.text, piece.kind) for piece in found.vocabulary.pieces[count:]] == [
        ("<pad>", PieceKind.CONTROL),
        ("<|im_start|>", PieceKind.USER_DEFINED),
    ]
    assert found.vocabulary.pad == count


def test_special_tokens_may_stand_in_the_vocabulary_too(ranks_document, small_ranks, path):
    def listed_twice(document):
        document["model"]["vocab"] |= {token["content"]: token["id"] for token in document["added_tokens"]}

    path.write_text(changed(ranks_document, listed_twice), encoding="utf-8")
    assert read_tokenizer_json(path) == small_ranks


@pytest.mark.parametrize("options", [{}, {"add_prefix_space": False}, {"legacy": True}])
def test_transformers_own_llama_tokenizer_is_read(plain, pieces_document, options, tmp_path):
    from transformers import LlamaTokenizer

    merges = [tuple(merge.split(" ")) for merge in pieces_document["model"]["merges"]]
    LlamaTokenizer(vocab=pieces_document["model"]["vocab"], merges=merges, **options).save_pretrained(tmp_path)
    found = read_tokenizer_json(tmp_path / "tokenizer.json").vocabulary
    assert "Metaspace" in (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    assert found.pieces == plain.pieces
    assert found.add_dummy_prefix == options.get("add_prefix_space", True)
    assert (found.begin, found.end, found.unknown) == (plain.begin, plain.end, plain.unknown)


@pytest.fixture(scope="module", params=[True, False])
def other_order(request, plain, pieces_document, tmp_path_factory):
    """The file with its merges as transformers 4 (True) and transformers 5 (False) order them."""
    from transformers.convert_slow_tokenizer import generate_merges

    ids = {piece.text: i for i, piece in enumerate(plain.pieces)}
    scores = {piece.text: piece.score for piece in plain.pieces} if request.param else None
    normal = plain.ids(PieceKind.NORMAL)
    merges = [f"{left} {right}" for left, right in generate_merges(ids, scores) if left + right in normal]
    assert merges != pieces_document["model"]["merges"]
    path = tmp_path_factory.mktemp("order") / "tokenizer.json"
    path.write_text(changed(pieces_document, lambda d: d["model"].update(merges=merges)), encoding="utf-8")
    return path


def test_the_splits_of_a_piece_may_be_in_transformers_order(other_order, plain):
    assert read_tokenizer_json(other_order).vocabulary == plain


def test_in_transformers_order_the_library_gives_the_files_ids(other_order, tmp_path, hard_strings):
    """On repetitive text, where another order among the splits of a piece could tell."""
    from tokenizers import Tokenizer

    write_sentencepiece(tmp_path / "tokenizer.model", read_tokenizer_json(other_order).vocabulary)
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    theirs = Tokenizer.from_file(str(other_order))

    @settings(max_examples=1000, deadline=None)
    @given(st.lists(st.sampled_from(REPETITIVE), max_size=30).map("".join) | st.sampled_from(hard_strings))
    def check(text):
        assert theirs.encode(text, add_special_tokens=False).ids == library.encode(text)

    check()


def test_spaces_may_be_merged_last_as_in_llama_2(plain, pieces_document, path):
    """Its own file has the score -1e9 for every piece of nothing but spaces."""
    merges = pieces_document["model"]["merges"]
    spaces = [merge for merge in merges if not merge.strip("▁ ")]
    assert spaces
    assert merges[-len(spaces) :] != spaces
    last = [merge for merge in merges if merge not in spaces] + spaces
    path.write_text(changed(pieces_document, lambda d: d["model"].update(merges=last)), encoding="utf-8")
    found = {piece.text: piece.score for piece in read_tokenizer_json(path).vocabulary.pieces}
    wanted = {piece.text: piece.score for piece in plain.pieces}
    assert found == wanted | {"▁" * n: -1e9 for n in range(1, 20) if "▁" * n in wanted}


def at(*keys, value):
    """A change that sets one value in a document."""

    def change(document):
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def swap_merges(document):
    merges = document["model"]["merges"]
    merges[3], merges[4] = merges[4], merges[3]


def drop_merge(document):
    del document["model"]["merges"][5]


def give_again(document):
    document["added_tokens"][3]["id"] = document["added_tokens"][2]["id"]


def drop_vocabulary(document):
    text = next(text for text, i in document["model"]["vocab"].items() if i == 300)
    del document["model"]["vocab"][text]


BOTH = [
    (at("model", "type", value="Unigram"), "its model is Unigram, wanted BPE"),
    (at("model", "vocab", value=["a"]), "its model has no vocabulary of tokens and ids"),
    (at("model", "vocab", "a", value="1"), "its model has no vocabulary of tokens and ids"),
    (at("model", "merges", value=None), "its model has no list of merges"),
    (at("model", "merges", 2, value=["a"]), "1 of its merges are not a pair of texts, the first is ['a']"),
    (at("model", "merges", 2, value="x y z"), "merge 2 is 'x y z', its tokens demand"),
    (at("model", "dropout", value=0.1), "its model has dropout 0.1, wanted None"),
    (at("model", "end_of_word_suffix", value="</w>"), "its model has end_of_word_suffix '</w>', wanted None"),
    (at("added_tokens", value={"a": 1}), "added_tokens is no list"),
    (at("added_tokens", 1, value={"id": 1}), "an added token has no id or no content"),
    (at("added_tokens", 1, "lstrip", value=True), "has lstrip, which no other format can say"),
    (at("decoder", value=3), "decoder is 3, wanted an object"),
    (at("decoder", value={"type": "WordPiece"}), "its decoder is not OR it writes tokens as text in another way"),
    (at("normalizer", value={"type": "NFC"}), "it changes text OR (normalizer NFC"),
    (at("pre_tokenizer", value={"type": "Whitespace"}), "it cuts text"),
    (drop_vocabulary, "tokens have not the ids 0 to"),
    (drop_merge, "merges, its tokens demand"),
    (swap_merges, "merge 3 is"),
]
SPLIT = ("pre_tokenizer", "pretokenizers", 0)
RANKS = [
    (at(*SPLIT, "pattern", "Regex", value=r"\p{L}+"), r"it cuts text by '\\p{L}+', which is not Llama 3's pattern"),
    (at(*SPLIT, "behavior", value="Removed"), "its pre_tokenizer is not one cut and then bytes"),
    (at("pre_tokenizer", "pretokenizers", 1, "use_regex", value=True), "its pre_tokenizer is not one cut"),
    (at("pre_tokenizer", value={"type": "ByteLevel", "use_regex": True}), "it cuts text by no pattern of its own"),
    (at("model", "ignore_merges", value=False), 'add "ignore_merges": true to its model'),
    (at("model", "byte_fallback", value=True), "its model has byte_fallback True, wanted False"),
    (at("added_tokens", 5, "id", value=999), "the added tokens leave gaps behind the 512 others: missing are 517, 768"),
    (
        at("added_tokens", 5, "id", value=5),
        "the added token '<|reserved_special_token_2|>' has the id 5 of an ordinary",
    ),
    (at("added_tokens", 5, "content", value="<|eot_id|>"), "1 added tokens have the name of another"),
    (give_again, "1 added tokens have the id of another"),
]
PIECES = [
    (at("model", "ignore_merges", value=True), "its model has ignore_merges True, wanted False"),
    (at("model", "unk_token", value="?none?"), "it has 0 unknown pieces, not 1"),
    (at("model", "byte_fallback", value=False), "it has 0 of the 0 byte pieces, and 256 others"),
    (at("normalizer", "normalizers", 1, "content", value="_"), "it changes text in another way"),
    (at("decoder", "decoders", value=[{"type": "Fuse"}]), "it writes tokens as text in another way than SentencePiece"),
    (
        at(
            "pre_tokenizer",
            value={"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False},
        ),
        "its model has ignore_merges None, wanted True",
    ),
    (at("added_tokens", 1, "content", value="<bos>"), "the added token '<bos>' has the id 1 of '<s>'"),
    (at("added_tokens", 2, "id", value=800), "the added tokens leave gaps behind the 700 others: missing are 700"),
]


def check_refused(path, document, change, words):
    told = refusal(path, changed(document, change))
    assert any(word in told for word in words.split(" OR ")), told


@pytest.mark.parametrize(("change", "words"), BOTH + RANKS)
def test_what_is_no_llama_3_is_refused(path, ranks_document, change, words):
    check_refused(path, ranks_document, change, words)


@pytest.mark.parametrize(("change", "words"), BOTH + PIECES)
def test_what_is_no_llama_2_is_refused(path, pieces_document, change, words):
    check_refused(path, pieces_document, change, words)


def test_all_problems_are_told_at_once(path, ranks_document):
    def change(document):
        document["normalizer"] = {"type": "NFC"}
        document["model"]["ignore_merges"] = False
        document["added_tokens"][5]["id"] = 999

    told = refusal(path, changed(ranks_document, change))
    assert "(3 problems)" in told
    assert "it changes text before cutting it (NFC)" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no JSON"),
        ('{"model": {"type": "BPE", ', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "it has no model"),
        ('{"model": {"type": "WordPiece", "vocab": {}}}', "its model is WordPiece, wanted BPE"),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "its BPE model works neither on bytes nor on text"),
    ],
)
def test_another_file_is_called_what_it_is(path, content, words):
    assert words in refusal(path, content)


def test_every_swap_of_two_merges_is_noticed(path, ranks_document):
    """The control of the proof: not only the fourth merge counts."""

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def check(data):
        count = len(ranks_document["model"]["merges"])
        one = data.draw(st.integers(0, count - 2))
        other = data.draw(st.integers(one + 1, count - 1))

        def swap(document):
            merges = document["model"]["merges"]
            merges[one], merges[other] = merges[other], merges[one]

        assert f"merge {one} is" in refusal(path, changed(ranks_document, swap))

    check()


def test_no_file_is_a_mistake_of_the_request(path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_tokenizer_json(path)
