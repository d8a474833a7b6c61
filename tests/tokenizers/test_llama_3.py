"""Contract: our tokenizer.json gives the ids that Meta's own tokenizer gives, for Llama 3 and later."""

# ruff: noqa: RUF001 (full-width characters are meant)
import json
import subprocess
import sys
from hashlib import sha256
from io import BytesIO

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llama_convert.convert.errors import UsageError
from llama_convert.convert.tokenizers.added import added_tokens
from llama_convert.convert.tokenizers.special_tokens import special_tokens
from llama_convert.convert.tokenizers.tiktoken import LLAMA_3_RANKS, TiktokenVocabulary, merges
from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json

BEGIN_ID = 128_000
# llama.cpp picks its pre-tokenizer by this text and hash (convert_hf_to_gguf.py, get_vocab_base_pre).
LLAMA_CPP_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ 🦙🦙 "
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ "
    "------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you "
    "sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
LLAMA_BPE = "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5"
SMAUG_BPE = "c136ed14"


def encode(tokenizer, texts):
    return [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


def chosen(ids):
    return sha256(str(ids).encode()).hexdigest()


@pytest.fixture(scope="module")
def words(vocabulary):
    """Every token that is text by itself: 126,648 of the 128,000."""
    found = []
    for token in vocabulary.tokens:
        try:
            found.append(token.decode())
        except UnicodeDecodeError:
            continue
    return found


@pytest.fixture(scope="module")
def expected(meta, words):
    return [meta.encode(word, bos=False, eos=False) for word in words]


def test_there_are_128000_ranks_and_280147_merges(vocabulary):
    assert len(vocabulary.tokens) == LLAMA_3_RANKS
    assert sum(1 for _ in merges(vocabulary)) == 280_147


def test_hard_strings_have_metas_ids(meta, llama_3_fast, hard_strings):
    expected = [meta.encode(text, bos=True, eos=False) for text in hard_strings]
    assert [llama_3_fast.encode(text).ids for text in hard_strings] == expected


def test_hard_strings_come_back(llama_3_fast, hard_strings):
    ids = encode(llama_3_fast, hard_strings)
    assert [llama_3_fast.decode(found) for found in ids] == hard_strings


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_has_metas_ids(meta, llama_3_fast, text):
    assume("<|" not in text)
    assert llama_3_fast.encode(text).ids == meta.encode(text, bos=True, eos=False)


def test_every_word_of_the_vocabulary_has_metas_ids(llama_3_fast, words, expected):
    assert len(words) == 126_648
    assert encode(llama_3_fast, words) == expected


def test_control_without_whole_words_588_are_wrong(llama_3_folder, words, expected):
    from tokenizers import Tokenizer

    whole = json.loads((llama_3_folder / "tokenizer.json").read_text(encoding="utf-8"))
    whole["model"]["ignore_merges"] = False
    found = encode(Tokenizer.from_str(json.dumps(whole)), words)
    wrong = [word for word, ids, wanted in zip(words, found, expected, strict=True) if ids != wanted]
    assert len(wrong) == 588
    assert " việc" in wrong


def test_special_ids_are_metas(meta, vocabulary):
    """Names differ by design for two reserved tokens; the ids of all that mean something are the same."""
    added = {token.text: token.id for token in added_tokens(vocabulary, special_tokens("3.1"))}
    assert len(added) == 256
    assert set(added.values()) == set(meta.special_tokens.values())
    named = [name for name in added if "reserved" not in name]
    assert len(named) == 8
    assert {name: added[name] for name in named} == {name: meta.special_tokens[name] for name in named}


def test_the_text_of_a_special_token_is_that_token(meta, llama_3_fast):
    """By design: Meta's code does so only when asked to."""
    text = "a <|eot_id|><|start_header_id|>user<|end_header_id|>\n\nb<|python_tag|> c<|eom_id|>"
    assert llama_3_fast.encode(text).ids == meta.encode(text, bos=True, eos=False, allowed_special="all")
    assert llama_3_fast.encode(text).ids != meta.encode(text, bos=True, eos=False)


def test_llama_cpp_recognises_it(llama_3_fast):
    assert chosen(llama_3_fast.encode(LLAMA_CPP_TEXT).ids) == LLAMA_BPE


def test_control_without_the_begin_token_llama_cpp_takes_another(llama_3_fast):
    ids = llama_3_fast.encode(LLAMA_CPP_TEXT, add_special_tokens=False).ids
    assert chosen(ids).startswith(SMAUG_BPE)


def test_the_file_is_what_the_hub_has(llama_3_folder):
    whole = json.loads((llama_3_folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert whole["model"]["merges"][0] == "Ġ Ġ"
    assert all(type(merge) is str and merge.count(" ") == 1 for merge in whole["model"]["merges"])
    assert (llama_3_folder / "tokenizer.json").stat().st_size < 8_000_000
    assert whole["normalizer"] is None
    assert list(whole["model"]["vocab"].values()) == list(range(LLAMA_3_RANKS))


def test_transformers_reads_the_folder(meta, llama_3_folder, hard_strings):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama_3_folder)
    assert len(tokenizer) == 128_256
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        128_000,
        128_009,
        None,
    )
    assert tokenizer.model_max_length == 8192
    for text in hard_strings:
        assert tokenizer(text)["input_ids"] == meta.encode(text, bos=True, eos=False), text
    ids = tokenizer("it 's ok , yes <|eot_id|>")["input_ids"]
    assert ids[-1] == 128_009
    assert tokenizer.decode(ids, skip_special_tokens=True) == "it 's ok , yes "


def test_a_file_is_written_from_where_it_stands_and_left_open(llama_3_folder, vocabulary):
    file = BytesIO()
    file.write(b"before")
    write_tokenizer_json(file, vocabulary, special_tokens("3.1"))
    assert file.getvalue() == b"before" + (llama_3_folder / "tokenizer.json").read_bytes()


def test_without_a_begin_token_nothing_is_written(tmp_path, vocabulary):
    with pytest.raises(UsageError, match=r"begin_of_text"):
        write_tokenizer_json(tmp_path / "tokenizer.json", vocabulary, ["<|end_of_text|>"])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_process_that_converts_needs_little_memory(tmp_path, meta_path):
    """In MB, where transformers takes 470; and no library is loaded for it."""
    program = (
        "import sys; from pathlib import Path\n"
        "from llama_convert.convert.tokenizers.special_tokens import special_tokens\n"
        "from llama_convert.convert.tokenizers.tiktoken import read_tiktoken\n"
        "from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json\n"
        "vocabulary = read_tiktoken(Path(sys.argv[1]))\n"
        "write_tokenizer_json(Path(sys.argv[2]), vocabulary, special_tokens('3'))\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'tiktoken', 'sentencepiece'}\n"
        "status = dict(line.split(':') for line in open('/proc/self/status'))\n"
        "print(int(status['VmHWM'].split()[0]) // 1024, *heavy & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", program, meta_path, tmp_path / "tokenizer.json"]
    peak, *heavy = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert heavy == []
    assert int(peak) <= 150


def test_pairs_start_twice(llama_3_fast):
    ids = llama_3_fast.encode("a", "b").ids
    assert ids == [
        BEGIN_ID,
        *llama_3_fast.encode("a", add_special_tokens=False).ids,
        *llama_3_fast.encode("b").ids,
    ]


@pytest.mark.parametrize("specials", [1, 3, 256])
def test_a_small_vocabulary_of_any_size(tmp_path, write_folder, hard_strings, specials):
    """512 ranks; judged by tiktoken, which has the ranks and needs no merges."""
    import tiktoken

    from llama_convert.convert.tokenizers.tiktoken import PATTERN

    words = [bytes([value]) for value in range(256)]
    text = "the cat sat on the mat  and the other thing was there " * 3
    for size in range(2, 9):
        words += sorted({text[i : i + size].encode() for i in range(len(text) - size)} - set(words))
    vocabulary = TiktokenVocabulary(tokens=tuple(words[:512]))
    folder = write_folder(tmp_path, vocabulary, special_tokens("3")[:specials], version="3", instruct=False)
    judge = tiktoken.Encoding("small", pat_str=PATTERN, mergeable_ranks=vocabulary.ranks(), special_tokens={})
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert found.get_vocab_size() == 512 + specials
    for sample in [*hard_strings, text]:
        assert found.encode(sample).ids == [512, *judge.encode(sample)], sample
