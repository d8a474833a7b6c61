"""Contract: every version's special tokens have the names and places that its Hugging Face files have."""

import pytest

from llama_convert.convert.errors import UsageError
from llama_convert.convert.tokenizers.special_tokens import (
    LLAMA_3_1_VERSIONS,
    LLAMA_3_VERSIONS,
    SENTENCEPIECE_VERSIONS,
    begin_token,
    end_token,
    replace_names,
    special_tokens,
)


@pytest.mark.parametrize("version", LLAMA_3_VERSIONS)
def test_llama_3_names(version):
    names = special_tokens(version)
    assert len(names) == len(set(names)) == 256
    assert names[:2] == ("<|begin_of_text|>", "<|end_of_text|>")
    assert names[2:6] == tuple(f"<|reserved_special_token_{i}|>" for i in range(4))
    assert names[6:10] == (
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|reserved_special_token_4|>",
        "<|eot_id|>",
    )
    assert (names[10], names[255]) == ("<|reserved_special_token_5|>", "<|reserved_special_token_250|>")


@pytest.mark.parametrize("version", LLAMA_3_1_VERSIONS)
def test_llama_3_1_names(version):
    names = special_tokens(version)
    assert len(names) == len(set(names)) == 256
    changed = {i: name for i, name in enumerate(names) if name not in special_tokens("3")}
    assert changed == {4: "<|finetune_right_pad_id|>", 8: "<|eom_id|>", 10: "<|python_tag|>"}
    assert (names[5], names[11]) == ("<|reserved_special_token_2|>", "<|reserved_special_token_3|>")
    assert names[255] == "<|reserved_special_token_247|>"


@pytest.mark.parametrize("version", SENTENCEPIECE_VERSIONS)
def test_older_versions_have_three(version):
    assert special_tokens(version) == ("<unk>", "<s>", "</s>")
    assert (begin_token(version), end_token(version, instruct=True)) == ("<s>", "</s>")


def test_the_end_depends_on_the_tuning():
    assert end_token("3.1", instruct=False) == "<|end_of_text|>"
    assert end_token("3.1", instruct=True) == end_token("guard-3", instruct=False) == "<|eot_id|>"


def test_an_unknown_version_is_refused():
    with pytest.raises(UsageError, match=r"no Llama version '3\.9'"):
        special_tokens("3.9")


def test_own_names_are_taken():
    names = [*special_tokens("3")[:250], *(f"<|mine_{i}|>" for i in range(6))]
    assert replace_names(names, version="3", count=256, instruct=True) == tuple(names)


def test_all_that_is_wrong_with_own_names_is_told_at_once():
    names = ["<|begin_of_text|>", "x", "the", "x", "", "<|end_of_text|>"]
    with pytest.raises(UsageError) as caught:
        replace_names(names, version="3", count=256, instruct=True, ordinary={b"the"})
    assert caught.value.problems == (
        "6 names for 256 ids",
        "name 2, 'the', is the text of an ordinary token",
        "name 3, 'x', is also name 1",
        "name 4 is empty",
        "name 6 must be '<|start_header_id|>', not 'nothing'",
        "name 7 must be '<|end_header_id|>', not 'nothing'",
        "name 9 must be '<|eot_id|>', not 'nothing'",
    )


def test_a_moved_begin_token_is_refused():
    first, second, *rest = special_tokens("3.1")
    with pytest.raises(UsageError, match=r"name 0 must be '<\|begin_of_text\|>'"):
        replace_names([second, first, *rest], version="3.1", count=256, instruct=False)
