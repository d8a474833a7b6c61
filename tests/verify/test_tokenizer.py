"""Contract: the tokenizer level passes right conversions and finds a single wrong merge, token or setting."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import llama_models
import pytest

from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify.report import Verdict
from llama_convert.verify.tokenizer import check_tokenizer
from tests.checkpoints import CASES, random_model, write_meta
from tests.small_tokenizers import WHOLE_TOKEN

BY_NAME = {case.name: case for case in CASES}
LIKELY = [BY_NAME[name] for name in ("1", "2", "code", "3", "3.1", "3.2")]


def edit(checkpoint, change):
    path = checkpoint.tokenizer.path
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    return checkpoint


def reorder_merges(values):
    values["model"]["merges"].reverse()


def drop_merge(values):
    del values["model"]["merges"][len(values["model"]["merges"]) // 2]


def drop_special(values):
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "<|eot_id|>"]


def drop_last_reserved(values):
    """The end of the vocabulary, where only names that stand for nothing are."""
    values["added_tokens"] = values["added_tokens"][:-100]


def exchange_specials(values):
    first, second = values["added_tokens"][0], values["added_tokens"][1]
    first["content"], second["content"] = second["content"], first["content"]


def exchange_tokens(values):
    vocabulary = values["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


def forget_whole_words(values):
    values["model"]["ignore_merges"] = False


def forget_begin(values):
    values["post_processor"] = None


def forget_cutting(values):
    values["pre_tokenizer"]["pretokenizers"].pop(0)
    values["pre_tokenizer"]["pretokenizers"][0]["use_regex"] = True  # GPT-2's, not Llama's


def forget_prefix(values):
    values["normalizer"]["normalizers"].pop(0)


MISTAKES_OF_3 = (
    reorder_merges,
    drop_merge,
    drop_special,
    drop_last_reserved,
    exchange_specials,
    exchange_tokens,
    forget_whole_words,
    forget_begin,
    forget_cutting,
)


@pytest.mark.parametrize("case", LIKELY, ids=str)
def test_a_right_conversion_agrees(case, open_pair):
    a, b = open_pair(case)
    for sides in ((a, b), (b, a), (a, a), (b, b), (a, None), (b, None)):
        result = check_tokenizer(*sides)
        assert (result.verdict, result.findings) == (Verdict.PASSED, ())


@pytest.mark.parametrize("mistake", MISTAKES_OF_3, ids=lambda mistake: mistake.__name__)
def test_a_mistake_in_llama_3s_is_found(mistake, open_pair):
    a, b = open_pair(BY_NAME["3"])
    result = check_tokenizer(a, edit(b, mistake))
    assert result.verdict is Verdict.FAILED
    assert result.findings


@pytest.mark.parametrize("mistake", [reorder_merges, drop_merge, exchange_tokens, forget_begin, forget_prefix])
def test_a_mistake_in_llama_2s_is_found(mistake, open_pair):
    a, b = open_pair(BY_NAME["2"])
    assert check_tokenizer(a, edit(b, mistake)).verdict is Verdict.FAILED


def replaced(text, other):
    return {"type": "Replace", "pattern": {"String": text}, "content": other}


# What a careless export puts in front of the tokenizer: each changes a text that few would try.
NORMALIZERS = {
    **{kind: {"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")},
    "left": {"type": "Strip", "strip_left": True, "strip_right": False},
    "right": {"type": "Strip", "strip_left": False, "strip_right": True},
    "line ends": replaced("\r\n", "\n"),
    "zero": replaced("\x00", ""),
    "tab": replaced("\t", " "),
    "byte order mark": replaced("\ufeff", ""),
    "joiner": replaced("\u200d", ""),
    "variation": replaced("\ufe0f", ""),
    "soft hyphen": replaced("\u00ad", ""),
    "line separator": replaced("\u2028", "\n"),
}
CUTS = {
    "digits one by one": ("\\p{N}{1,3}", "\\p{N}"),
    "digits together": ("\\p{N}{1,3}", "\\p{N}+"),
    "ASCII digits": ("\\p{N}{1,3}", "[0-9]{1,3}"),
    "ASCII letters": ("?\\p{L}+", "?[A-Za-z]+"),
    "contractions in lower case": ("(?i:", "(?:"),
    "a space in front only": ("[^\\r\\n\\p{L}\\p{N}]?\\p{L}+", " ?\\p{L}+"),
    "spaces not given back": ("|\\s+(?!\\S)", ""),
    "ends of lines": ("|\\s*[\\r\\n]+", ""),
}


@pytest.mark.parametrize(
    ("name", "version"), [*((name, "3") for name in NORMALIZERS), ("NFC", "2"), ("left", "2"), ("soft hyphen", "2")]
)
def test_a_text_that_is_changed_before_is_found(name, version, open_pair):
    def normalise(values):
        steps = (values["normalizer"] or {}).get("normalizers", [])
        values["normalizer"] = {"type": "Sequence", "normalizers": [NORMALIZERS[name], *steps]}

    a, b = open_pair(BY_NAME[version])
    assert check_tokenizer(a, edit(b, normalise)).verdict is Verdict.FAILED


@pytest.mark.parametrize("name", CUTS)
def test_another_cut_is_found(name, open_pair):
    old, new = CUTS[name]

    def cut(values):
        pattern = values["pre_tokenizer"]["pretokenizers"][0]["pattern"]
        assert old in pattern["Regex"]
        pattern["Regex"] = pattern["Regex"].replace(old, new)

    a, b = open_pair(BY_NAME["3"])
    assert check_tokenizer(a, edit(b, cut)).verdict is Verdict.FAILED


def test_findings_name_the_token_and_the_text(open_pair):
    a, b = open_pair(BY_NAME["3"])
    found = check_tokenizer(a, edit(b, drop_special)).findings
    assert "special token <|eot_id|>: id 521 against none" in found
    a, b = open_pair(BY_NAME["3"])
    found = check_tokenizer(a, edit(b, forget_whole_words)).findings
    assert any(WHOLE_TOKEN.decode() in finding for finding in found)


def test_a_lost_tokenizer_is_a_failure_and_none_at_all_was_not_checked(open_pair):
    a, b = open_pair(BY_NAME["3"])
    nothing = replace(b, tokenizer=None)
    assert check_tokenizer(a, nothing).verdict is Verdict.FAILED
    assert check_tokenizer(nothing, a).verdict is Verdict.NOT_CHECKED
    assert check_tokenizer(nothing, None).verdict is Verdict.NOT_CHECKED


def test_without_its_library_it_says_what_to_install(open_pair, monkeypatch):
    a, b = open_pair(BY_NAME["2"])
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    for sides in ((a, b), (b, a), (a, None)):
        result = check_tokenizer(*sides)
        assert result.verdict is Verdict.NOT_CHECKED
        assert 'pip install "llama-convert[sentencepiece]"' in result.figures
    assert check_tokenizer(b, None).verdict is Verdict.PASSED


def with_rows(side, rows):
    return replace(side, config=replace(side.config, vocab_size=rows))


def test_rows_that_do_not_fit_are_a_failure(open_pair):
    a, b = open_pair(BY_NAME["3"])
    for wrong in (with_rows(a, 1100), with_rows(b, 700)):
        assert str(wrong.config.vocab_size) in check_tokenizer(wrong, None).findings[0]


def test_a_padded_embedding_is_said_but_no_failure(open_pair):
    """Of Hugging Face's files and GGUF's: there the tokenizer does not say how many rows there are."""
    _, b = open_pair(BY_NAME["3"])
    found = check_tokenizer(with_rows(b, 800), None)
    assert found.verdict is Verdict.PASSED
    assert "32 of 800 rows" in found.warnings[0]


def test_a_damaged_file_is_an_error_with_its_name(open_pair):
    from llama_convert.convert.errors import CheckpointError

    a, b = open_pair(BY_NAME["3"])
    b.tokenizer.path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        check_tokenizer(a, b)


def test_metas_real_tokenizer(tmp_path):
    """128,000 ranks, of which 588 are reached by no merge."""
    from llama_convert.convert.tokenizers.special_tokens import special_tokens
    from llama_convert.convert.tokenizers.tiktoken import read_tiktoken
    from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json
    from tests.verify.conftest import write_huggingface

    real = Path(llama_models.__file__).parent / "llama3" / "tokenizer.model"
    model = random_model("3.1", dim=16, heads=2, kv_heads=1, layers=1, vocab=128256)
    a = open_checkpoint(write_meta(model, tmp_path / "meta", tokenizer=real), "3.1")
    b = open_checkpoint(write_huggingface(tmp_path / "hf", a.path, model))
    assert check_tokenizer(a, b).findings == ()
    write_tokenizer_json(b.tokenizer.path, read_tiktoken(real), special_tokens("3.1"))
    result = check_tokenizer(a, edit(b, forget_whole_words))
    assert result.findings[0].endswith("texts have other ids")
    assert int(result.findings[0].split()[0]) >= 588
