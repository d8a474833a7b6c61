"""Laws of a changed vocabulary: every library finds the new tokens, and nothing else is any different."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llama_convert.convert import open_checkpoint
from llama_convert.convert.claims import NAME
from llama_convert.convert.formats import FORMATS
from llama_convert.convert.outputs import Request
from llama_convert.convert.tokens import open_tokens
from llama_convert.verify import verify
from llama_convert.verify.corpus import corpus
from llama_convert.verify.judges import open_judge
from llama_convert.verify.tokenizer_judges import Judge
from tests.tokenizers.changed import FIRST, NOTE, PAD, SPARE, folder_with_spare_rows, library, with_new_tokens

HOLDS_RANKS = [form.name for form in FORMATS if form.name != "llama2c"]
PAIRS = [("3.1", name) for name in HOLDS_RANKS] + [("2", form.name) for form in FORMATS]
SAYS_PAD = {"3.1": {"hf", "mlx", "litgpt", "gguf"}}
SAYS_PAD["2"] = SAYS_PAD["3.1"] | {"meta", "scratch", "torchtune"}
Known = tuple[Judge, list[str], list[list[int]]]
TEXT = "de{}ka"  # nothing that merges


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {version: folder_with_spare_rows(tmp_path_factory.mktemp(version), version) for version in FIRST}


@pytest.fixture(scope="module")
def after(before: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every format of the changed checkpoint."""
    place = tmp_path_factory.mktemp("after")
    return {(version, to): with_new_tokens(before[version], place / version / to, to, version) for version, to in PAIRS}


@pytest.fixture(scope="module")
def words(before: dict[str, Path]) -> dict[str, Known]:
    """The tokenizers as they were, texts, and the ids of these."""
    found = {}
    for version, folder in before.items():
        judge = open_judge(open_checkpoint(folder, version))
        texts = [text for text in corpus(judge.words()) if not judge.names_special(text)][::5]
        found[version] = (judge, texts, judge.encode(texts))
    return found


def names(version: str, to: str) -> list[tuple[int, str]]:
    first = FIRST[version]
    return [(first, PAD)] if to == "llama2c" else [(first, PAD), (first + 1, NOTE)]


@pytest.mark.parametrize(("version", "to"), [pair for pair in PAIRS if pair[1] != "llama2c"])
def test_every_library_finds_the_new_tokens_and_text_around_them_is_as_before(
    version: str, to: str, after: dict[tuple[str, str], Path], before: dict[str, Path]
) -> None:
    new, old = library(after[version, to], to), library(before[version], "hf")
    for number, text in names(version, to):
        assert new.id_of(text) == number
        assert new.text_of(number) == text
        if new.encode and (to in ("hf", "mlx", "litgpt") or version == "3.1"):
            assert new.encode(text) == [number] or (version, text) == ("2", NOTE)
            assert new.encode(TEXT.format(text)).count(number) == 1
    assert old.encode is not None
    assert len(old.encode(PAD)) > 1  # control: nothing of it was there
    assert new.pad == (FIRST[version] if to in SAYS_PAD[version] else None)


@pytest.mark.parametrize("to", ["hf", "meta", "scratch", "torchtune"])
def test_ids_around_a_new_token_of_llama_3(
    to: str, after: dict[tuple[str, str], Path], before: dict[str, Path]
) -> None:
    new, old = library(after["3.1", to], to).encode, library(before["3.1"], "hf").encode
    assert new
    assert old
    for number, text in names("3.1", to):
        assert new(TEXT.format(text)) == [*old("de"), number, *old("ka")]


@pytest.mark.parametrize("to", ["hf", "meta"])
def test_ids_around_new_pieces_are_those_of_sentencepiece(
    to: str, after: dict[tuple[str, str], Path], before: dict[str, Path]
) -> None:
    """A user-defined piece is cut out wherever it stands; a control piece is no text there, in Hugging Face it is."""
    new, old = library(after["2", to], to).encode, library(before["2"], "hf").encode
    assert new
    assert old
    dummy, *ka = old("ka")
    number = FIRST["2"] + 1
    ids = new(TEXT.format(NOTE))
    assert ids[: ids.index(number)] == old("de")
    assert library(after["2", "meta"], "meta").encode(TEXT.format(NOTE)) == ids  # type: ignore[misc]
    assert ids[ids.index(number) + 1 :] != [dummy, *ka]  # no second space in front
    pad = new(TEXT.format(PAD))
    assert pad == ([*old("de"), FIRST["2"], dummy, *ka] if to == "hf" else old(TEXT.format(PAD)))


@pytest.mark.parametrize(("version", "to"), PAIRS)
def test_old_tokens_and_encodings_stay(
    version: str,
    to: str,
    after: dict[tuple[str, str], Path],
    words: dict[str, Known],
) -> None:
    old, texts, ids = words[version]
    new = open_judge(open_checkpoint(after[version, to], version))
    assert [new.tokens[number] for number in range(FIRST[version])] == [
        old.tokens[number] for number in range(FIRST[version])
    ]
    assert new.encode(texts) == ids
    assert len(new.tokens) > FIRST[version]


def test_control_a_token_in_the_wrong_place_is_seen(
    after: dict[tuple[str, str], Path], words: dict[str, Known], tmp_path: Path
) -> None:
    whole = json.loads((after["2", "hf"] / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = whole["model"]["vocab"]
    one, other = list(vocabulary)[300:302]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    source = open_checkpoint(after["2", "hf"])
    assert source.tokenizer
    wrong = open_judge(replace(source, tokenizer=replace(source.tokenizer, path=tmp_path / "tokenizer.json")))
    _, texts, ids = words["2"]
    assert wrong.encode(texts) != ids


@pytest.mark.parametrize(("version", "to"), PAIRS)
def test_what_was_written_is_read_back(version: str, to: str, after: dict[tuple[str, str], Path]) -> None:
    """Tokens, their kinds and the pad id; where no file says which id pads, conversion.json does."""
    folder = after[version, to]
    tokens, wanted = (open_tokens(open_checkpoint(path, version), Request()) for path in (folder, after[version, "hf"]))
    assert tokens.conventions.pad == FIRST[version]
    assert [tokens.text(number) for number, _ in names(version, to)] == [text for _, text in names(version, to)]
    assert tokens.named.plain == wanted.named.plain == ({NOTE} if version == "3.1" else set())
    if version == "2" and to != "llama2c":
        count = wanted.named.size
        assert tokens.named.vocabulary.pieces[:count] == wanted.named.vocabulary.pieces  # type: ignore[union-attr]


@pytest.mark.parametrize("to", ["meta", "scratch", "torchtune"])
def test_control_without_conversion_json_nothing_says_which_token_of_llama_3_pads(
    to: str, before: dict[str, Path], tmp_path: Path
) -> None:
    folder = with_new_tokens(before["3.1"], tmp_path / "out", to, "3.1")
    (folder / NAME).unlink()
    assert open_tokens(open_checkpoint(folder, "3.1"), Request()).conventions.pad is None


@pytest.mark.parametrize("to", ["hf", "gguf", "meta", "scratch", "llama2c"])
def test_verify_names_the_new_tokens(to: str, after: dict[tuple[str, str], Path], before: dict[str, Path]) -> None:
    (level,) = verify(before["2"], after["2", to], ["tokenizer"]).levels
    assert any(f"token {FIRST['2']}: none against b'{PAD}'" in finding for finding in level.findings)
    assert not any("texts have other ids" in finding for finding in level.findings)


def test_every_row_has_a_name_where_a_format_wants_that(after: dict[tuple[str, str], Path]) -> None:
    listed = json.loads((after["3.1", "meta"] / "special_tokens.json").read_text(encoding="utf-8"))
    assert listed[256:258] == [PAD, {"content": NOTE, "special": False}]
    assert len(listed) == 256 + SPARE
    assert open_tokens(open_checkpoint(after["2", "meta"], "2"), Request()).named.size == FIRST["2"] + SPARE
