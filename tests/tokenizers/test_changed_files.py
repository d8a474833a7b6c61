"""What a change does to each file: nothing that is not asked for, everything that is, and a word where it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_convert.convert import UsageError, open_checkpoint
from llama_convert.convert.outputs import Request
from llama_convert.convert.token_list import list_tokens
from llama_convert.convert.tokenizers.added import NamedVocabulary
from llama_convert.convert.tokenizers.changes import token_numbers
from llama_convert.convert.tokenizers.tiktoken import TiktokenVocabulary
from llama_convert.convert.tokens import open_tokens
from llama_convert.convert.vocabulary import NewToken
from tests.checkpoints import random_model, write_meta
from tests.convert.support import converted
from tests.tokenizers.changed import (
    FIRST,
    NOTE,
    PAD,
    SPARE,
    changed,
    edited,
    folder_with_spare_rows,
    new_tokens,
    planned,
    written,
)

RIGHT_PAD = "<|finetune_right_pad_id|>"
TEMPLATE = "{{ messages }}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {version: folder_with_spare_rows(tmp_path_factory.mktemp(version), version) for version in FIRST}


@pytest.fixture
def folder(plain: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A folder with keys and files of the user's own."""

    def made(version: str) -> Path:
        found = Path(shutil.copytree(plain[version], tmp_path / version))
        edited(found / "tokenizer.json", padding={"strategy": "BatchLongest", "pad_id": 0, "pad_token": "!"}, ours=1)
        edited(found / "tokenizer_config.json", ours={"a": [1]}, model_max_length=77)
        edited(found / "special_tokens_map.json", additional_special_tokens=["<|x|>"])
        edited(found / "generation_config.json", temperature=0.125, ours=True)
        (found / "added_tokens.json").write_text('{"ours": 3}')
        (found / "chat_template.jinja").write_text(TEMPLATE)
        return found

    return made


def read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("version", ["3.1", "2"])
def test_a_folders_own_files_are_edited_not_made_anew(
    version: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source, first = folder(version), FIRST[version]
    out = written(changed(open_checkpoint(source), new_tokens(version, plain=False), first), tmp_path / "out", "hf")
    entry = {
        "content": PAD,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    old, new = (read(path / "tokenizer.json") for path in (source, out))
    assert new.pop("added_tokens") == [*old.pop("added_tokens"), {"id": first, **entry}]
    assert new.pop("padding") == old.pop("padding") | {"pad_id": first, "pad_token": PAD}
    assert list(new["model"]["vocab"].items()) == list(old["model"]["vocab"].items())
    assert new == old

    old, new = (read(path / "tokenizer_config.json") for path in (source, out))
    assert new.pop("added_tokens_decoder") == old.pop("added_tokens_decoder") | {str(first): entry}
    assert new == old | {"pad_token": PAD}
    for name, more in (
        ("special_tokens_map.json", {"pad_token": PAD}),
        ("generation_config.json", {"pad_token_id": first}),
        ("added_tokens.json", {PAD: first}),
    ):
        assert read(out / name) == read(source / name) | more
    assert (out / "chat_template.jinja").read_text() == TEMPLATE
    assert (read(out / "config.json")["pad_token_id"], read(out / "config.json")["vocab_size"]) == (
        first,
        first + SPARE,
    )


def test_a_token_that_is_there_already_changes_no_vocabulary(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Llama 3.1's own: the tokenizer's file is copied as it is."""
    source = folder("3.1")
    pad = list_tokens(open_checkpoint(source)).numbers[RIGHT_PAD]
    out = written(changed(open_checkpoint(source), (), pad), tmp_path / "out", "hf")
    assert pad == 512 + 4
    assert (out / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert read(out / "tokenizer_config.json") == read(source / "tokenizer_config.json") | {"pad_token": RIGHT_PAD}
    assert read(out / "generation_config.json")["pad_token_id"] == read(out / "config.json")["pad_token_id"] == pad
    unchanged = converted(source, tmp_path / "unchanged", "hf")  # control
    assert "pad_token_id" not in read(unchanged / "config.json")
    assert (unchanged / "generation_config.json").read_bytes() == (source / "generation_config.json").read_bytes()


@pytest.mark.parametrize("to", ["gguf", "meta", "litgpt"])
def test_a_token_that_is_there_already_pads_in_every_format(
    to: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = folder("3.1")
    out = written(changed(open_checkpoint(source), (), 516), tmp_path / "out", to)
    assert open_tokens(open_checkpoint(out, "3.1"), Request()).conventions.pad == 516
    again = converted(converted(out, tmp_path / "scratch", "scratch", "3.1"), tmp_path / "again", "hf", "3.1")
    assert read(again / "tokenizer_config.json")["pad_token"] == RIGHT_PAD
    chat = converted(out, tmp_path / "chat", "hf", "3.1", instruct=True)  # what it is for is said anew, but not this
    assert read(chat / "config.json")["pad_token_id"] == 516


@pytest.mark.parametrize("scheme", ["Prepend", "Metaspace"])
def test_a_token_that_text_gives_is_cut_out_of_text_with_spaces_as_sentencepiece_does(
    scheme: str, plain: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, LlamaTokenizer

    source = Path(shutil.copytree(plain["2"], tmp_path / "in"))
    if scheme == "Metaspace":  # as transformers 5 saves it, with a class that would build a tokenizer of its own
        model = read(source / "tokenizer.json")["model"]
        merges = [tuple(merge.split(" ")) for merge in model["merges"]]
        LlamaTokenizer(vocab=model["vocab"], merges=merges).save_pretrained(source)
        edited(source / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    asked = changed(open_checkpoint(source), new_tokens("2"), 512)
    assert any("not LlamaTokenizer" in note for note in planned(asked, "hf").notes) == (scheme == "Metaspace")
    out = written(asked, tmp_path / "out", "hf")
    tokenizer, unchanged = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(source)
    assert len(tokenizer) == 514
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PAD, 512)
    assert tokenizer(f"de{NOTE}ka")["input_ids"].count(513) == 1
    assert tokenizer.decode([513]) == NOTE
    for text in ("", "de ka", "größe  12", "\n\n x"):
        assert tokenizer(text)["input_ids"] == unchanged(text)["input_ids"], text
    assert list_tokens(open_checkpoint(out)).size == 514
    wrong = converted(source, tmp_path / "wrong", "hf")  # control
    assert 513 not in AutoTokenizer.from_pretrained(wrong)(f"de{NOTE}ka")["input_ids"]


def test_metas_original_files_are_kept_only_where_they_say_the_truth(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = folder("2")
    assert (source / "original" / "tokenizer.model").is_file()
    for name, tokens, pad, kept in (("a", (), 2, True), ("b", new_tokens("2"), 512, False)):
        out = written(changed(open_checkpoint(source), tokens, pad), tmp_path / name, "hf")
        assert (out / "original" / "tokenizer.model").is_file() == kept


def test_a_sentencepiece_model_is_extended_and_nothing_in_it_is_touched(tmp_path: Path) -> None:
    """New rows are others' work: this looks at the small files alone."""
    from sentencepiece import SentencePieceProcessor

    model = random_model("2")
    meta = write_meta(model, tmp_path / "meta", tokenizer=model.tokenizer)
    source = changed(open_checkpoint(meta), new_tokens("2"), 512, rows=520)
    (file,) = (file for file in planned(source, "meta").side_files if file.name == "tokenizer.model")
    file.write(tmp_path / "new.model")
    old = (meta / "tokenizer.model").read_bytes()
    assert (tmp_path / "new.model").read_bytes().startswith(old)
    found, before = (
        SentencePieceProcessor(model_file=str(path)) for path in (tmp_path / "new.model", meta / file.name)
    )
    assert (found.get_piece_size(), before.get_piece_size()) == (520, 512)
    assert [found.id_to_piece(number) for number in (512, 513)] == [PAD, NOTE]
    assert (found.pad_id(), before.pad_id()) == (512, -1)
    assert [found.is_control(number) for number in (512, 513, 519)] == [True, False, True]


@pytest.mark.parametrize(
    ("version", "to", "words"),
    [
        ("3.1", "meta", "the programs for this format have others, without <pad>."),
        ("3.1", "scratch", "no file of this format says that <pad> (id 768) is the token to pad with"),
        ("3.1", "torchtune", "62 rows of the embedding have no token: special_tokens.json calls them"),
        ("2", "meta", "62 rows of the embedding have no token: tokenizer.model calls them"),
        ("2", "llama2c", "no file of this format says that <pad> (id 512) is the token to pad with"),
    ],
)
def test_what_a_format_cannot_hold_is_said(version: str, to: str, words: str, plain: dict[str, Path]) -> None:
    tokens = new_tokens(version, plain=to != "llama2c")
    source = open_checkpoint(plain[version])
    assert any(words in note for note in planned(changed(source, tokens, tokens[0].id), to).notes)
    assert not any("<pad>" in note for note in planned(source, to).notes)  # control


def test_hugging_faces_folder_and_gguf_hold_it_all(plain: dict[str, Path]) -> None:
    for to in ("hf", "mlx", "gguf", "litgpt"):
        assert planned(changed(open_checkpoint(plain["3.1"]), new_tokens("3.1"), 768), to).notes == ()


def token(number: int, text: str, *, special: bool = True) -> NewToken:
    return NewToken(id=number, text=text, special=special)


REFUSED = {
    "a name that is there": ("3.1", [token(768, "<|eot_id|>")], "'<|eot_id|>' is token 521 already"),
    "an ordinary token": ("3.1", [token(768, " ")], "the token of id 768 has an empty name"),
    "as tokenizer.json writes it": ("3.1", [token(768, "Ġ")], "'Ġ' is token"),
    "twice": ("3.1", [token(768, "<a>"), token(769, "<a>")], "'<a>' is given twice"),
    "an id that is taken": ("3.1", [token(767, "<a>")], "'<a>' has the id 767, which is taken"),
    "one id for two": ("3.1", [token(768, "<a>"), token(768, "<b>")], "'<b>' has the id 768, which is taken"),
    "the unknown piece": ("2", [token(512, "<unk>")], "'<unk>' is token 0 already"),
    "a space in a piece": ("2", [token(512, "<my pad>")], "'<my pad>' is special and has a space in it"),
}


@pytest.mark.parametrize(("version", "tokens", "words"), REFUSED.values(), ids=list(REFUSED))
def test_tokens_that_cannot_be_are_refused(
    version: str, tokens: list[NewToken], words: str, plain: dict[str, Path]
) -> None:
    with pytest.raises(UsageError) as caught:
        planned(changed(open_checkpoint(plain[version]), tokens, None), "gguf")
    assert any(words in problem for problem in caught.value.problems)
    assert "\n" not in caught.value.summary


def test_too_few_rows_are_refused(plain: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="770 tokens do not fit into 769 rows"):
        planned(changed(open_checkpoint(plain["3.1"]), new_tokens("3.1"), 768, rows=769), "hf")


def test_llama2c_has_no_tokens_that_it_would_have_to_cut_out(plain: dict[str, Path]) -> None:
    with pytest.raises(UsageError) as caught:
        planned(changed(open_checkpoint(plain["2"]), new_tokens("2"), 512), "llama2c")
    assert caught.value.problems == ("piece 513, '<note>', is user_defined, wanted normal",)


def test_ids_between_get_names(plain: dict[str, Path], tmp_path: Path) -> None:
    """A tokenizer.json numbers added tokens by itself: no id may be left out."""
    from tokenizers import Tokenizer

    source = changed(open_checkpoint(plain["3.1"]), [token(770, PAD)], 770)
    tokenizer = Tokenizer.from_file(str(written(source, tmp_path / "out", "hf") / "tokenizer.json"))
    assert [tokenizer.id_to_token(number) for number in range(768, 772)] == [
        "<|reserved_special_token_248|>",
        "<|reserved_special_token_249|>",
        PAD,
        None,
    ]


def test_what_is_taken_is_listed(plain: dict[str, Path]) -> None:
    found = list_tokens(open_checkpoint(plain["3.1"]))
    assert (found.size, found.rows, found.begin, found.end, found.pad) == (768, 768 + SPARE, 512, 513, None)
    assert len(found.reserved) == 248
    assert found.numbers[" "] == found.numbers["Ġ"]
    assert found.numbers.keys() >= {RIGHT_PAD, "e"}
    assert PAD not in found.numbers
    pieces = list_tokens(open_checkpoint(plain["2"]))
    assert (pieces.size, pieces.reserved, pieces.unknown, pieces.end) == (512, (), 0, 2)
    assert pieces.numbers["▁ka"] == pieces.numbers[" ka"]


def test_the_sign_for_what_is_no_text_may_be_a_text() -> None:
    vocabulary = TiktokenVocabulary(tokens=(b"\xef\xbf\xbd", b"\xef\xbf"))
    assert token_numbers(NamedVocabulary(vocabulary=vocabulary, special=())) == {"ï¿½": 0, "ï¿": 1, "\ufffd": 0}


def test_a_reserved_token_with_a_task_is_not_free(plain: dict[str, Path], tmp_path: Path) -> None:
    reserved = list_tokens(open_checkpoint(plain["3.1"])).reserved[0]
    out = written(changed(open_checkpoint(plain["3.1"]), (), reserved.id), tmp_path / "out", "hf")
    assert reserved not in list_tokens(open_checkpoint(out)).reserved
    assert list_tokens(open_checkpoint(out)).pad == reserved.id


def test_rows_as_they_are_and_as_they_are_to_be_are_told_apart(plain: dict[str, Path]) -> None:
    """The checkpoint as it is to be has the rows of the change, its files have their own."""
    source = open_checkpoint(plain["3.1"])
    tokens = open_tokens(changed(source, (), None, rows=2000), Request())
    assert (tokens.rows, tokens.stored, tokens.named.size) == (2000, 768 + SPARE, 768)
