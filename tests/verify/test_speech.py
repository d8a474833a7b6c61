"""Contract: the text that is told token by token is the text of all of them, and ends where it shall."""

from __future__ import annotations

import random

import pytest

from llama_convert.convert.errors import UsageError
from llama_convert.convert.tokenizers.sentencepiece import read_sentencepiece
from llama_convert.convert.tokenizers.special_tokens import special_tokens
from llama_convert.convert.tokenizers.tiktoken import read_tiktoken
from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json
from llama_convert.verify.speech import Transcript, parse_ends
from llama_convert.verify.tokenizer_judges import sentencepiece_judge, tiktoken_judge, tokenizers_judge
from tests.small_tokenizers import RANKS, small_sentencepiece, small_tiktoken

TEXTS = [
    "Hello there, this is plain.",
    "  two  spaces\n\n\tand lines \n",
    "世界日本語、你好。",
    "a👩\u200d🚀b😀😀😀 🇩🇪",
    "größe naïve việc привет مرحبا ½",
    "mixed 世 a 界 b 😀 c\ufffd d",
]
KINDS = ("tiktoken", "sentencepiece", "json of tiktoken", "json of sentencepiece")


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    ranks, pieces = small_tiktoken(folder / "ranks"), small_sentencepiece(folder / "pieces")
    names = special_tokens("3")
    write_tokenizer_json(folder / "ranks.json", read_tiktoken(ranks), names)
    write_tokenizer_json(folder / "pieces.json", read_sentencepiece(pieces), ())
    return dict(
        zip(
            KINDS,
            (
                tiktoken_judge(ranks, RANKS + 256, names),
                sentencepiece_judge(pieces),
                tokenizers_judge(folder / "ranks.json"),
                tokenizers_judge(folder / "pieces.json"),
            ),
            strict=True,
        )
    )


def told(judge, before, ids, stops=()):
    """The pieces, each of them checked, and the transcript."""
    transcript = Transcript(judge, before, stops)
    pieces = []
    for token in ids:
        pieces.append(transcript.add(token))
        if transcript.stopped:
            break
    pieces.append(transcript.finish())
    assert "".join(pieces) == transcript.text
    return pieces, transcript


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_joined_are_the_text(judges, kind, text):
    """Whatever of the text is the prompt; no character is cut in two."""
    judge = judges[kind]
    opening, *ids = judge.encode([text])[0]
    # A prompt that ends within a character is no prompt.
    for cut in (cut for cut in range(len(ids)) if not judge.decode(ids[:cut]).endswith("\ufffd")):
        pieces, transcript = told(judge, [opening, *ids[:cut]], ids[cut:])
        assert judge.decode(ids[:cut]) + transcript.text == judge.decode(ids)
        if "\ufffd" not in text:
            assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_a_character_comes_as_soon_as_it_is_whole(judges, kind):
    judge = judges[kind]
    opening, *ids = judge.encode(["x😀y"])[0]
    pieces, _ = told(judge, [opening], ids)
    assert [piece for piece in pieces if piece] == ["x", "😀", "y"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_text_is_held_back_across_tokens(judges, kind):
    judge = judges[kind]
    text = "one two three STOP four"
    opening, *ids = judge.encode([text])[0]
    pieces, transcript = told(judge, [opening], ids, ["TOP f", " STOP"])
    assert transcript.stopped
    assert transcript.text == "one two three"
    assert not any("S" in piece for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_began_like_a_stop_text_is_told(judges, kind):
    judge = judges[kind]
    text = "one two three STOP"
    opening, *ids = judge.encode([text])[0]
    pieces, transcript = told(judge, [opening], ids, ["STOPPED"])
    assert (transcript.text, transcript.stopped) == (text, False)
    assert pieces[-1] == "STOP"


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_and_rows_without_token_have_no_text(judges, kind):
    judge = judges[kind]
    opening, *ids = judge.encode(["one two"])[0]
    special = next(iter(judge.special.values()))
    _, transcript = told(judge, [opening], [ids[0], special, 10**6, *ids[1:]])
    assert transcript.text == "one two"


@pytest.mark.parametrize("kind", KINDS)
def test_any_tokens_at_all_have_some_text(judges, kind):
    """A model may write halves of characters for ever: they are told, and not held back for ever."""
    judge, source = judges[kind], random.Random(0)
    for _ in range(20):
        ids = source.choices(sorted(judge.tokens), k=40)
        transcript = Transcript(judge, [])
        told_so_far = sum(len(transcript.add(token)) for token in ids)
        assert len(transcript.text) == told_so_far
        if kind == "tiktoken":
            ordinary = [token for token in ids if token not in judge.special.values()]
            transcript.finish()
            assert transcript.text == judge.decode(ordinary)
    half = next(number for number in judge.tokens if judge.bytes_of(number) == b"\xe4")
    transcript = Transcript(judge, [])
    assert sum(len(transcript.add(half)) for _ in range(20)) == 17


def test_bytes_are_what_a_token_stands_for(judges):
    for kind, judge in judges.items():
        _, *ids = judge.encode(["go 世\n"])[0]
        content = b"".join(judge.bytes_of(number) for number in ids)
        assert content == (b" " if "sentencepiece" in kind else b"") + "go 世\n".encode()


def test_ends_are_ids_and_names(judges):
    judge = judges["tiktoken"]
    assert parse_ends(["<|eot_id|>", "5"], judge, RANKS + 256) == {judge.special["<|eot_id|>"], 5}
    with pytest.raises(UsageError) as raised:
        parse_ends(["<|nothing|>", "5000", "1"], judge, RANKS + 256)
    assert [problem.split(" is")[0] for problem in raised.value.problems] == ["'<|nothing|>'", "5000"]
