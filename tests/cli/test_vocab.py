"""`vocab`: what it says of tokens is what the tokenizers do, and no weight is read for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece

from llama_convert.cli.demo import EMBEDDED
from tests.cli.commands import Result
from tests.cli.conftest import check_refusal

Run = Callable[..., Result]
TEXT = "Größe 日本 llama"


def test_the_table(run: Run) -> None:
    done = run("vocab", EMBEDDED)
    assert done.status == 0
    assert "1,024, 256 of them special" in done.out
    assert "768 <|begin_of_text|>" in done.out
    assert "769 <|end_of_text|>, 777 <|eot_id|>" in done.out
    assert len(done.out.split("\n\n")[1].splitlines()) == 11
    assert run("vocab", EMBEDDED, "--sample", 10) == done
    assert run("vocab", EMBEDDED, "--seed", 1) != done


def test_tokens_by_id_and_in_texts(run: Run) -> None:
    found = run("vocab", EMBEDDED, "--id", 3, "--id", 1023, "--text", TEXT, "--json").json
    assert found["ids"][0] == [{"id": 3, "text": "$", "bytes": "24", "special": False}]
    assert found["ids"][1][0]["special"]
    assert found["sample"] == []
    ((begin, *tokens),) = found["texts"][0]["splits"]
    assert begin["text"] == "<|begin_of_text|>"
    assert bytes.fromhex("".join(token["bytes"] for token in tokens)).decode() == TEXT
    shown = run("vocab", EMBEDDED, "--id", 3, "--text", TEXT).out
    assert "'$'" in shown
    assert all(f"{token['id']}" in shown for token in tokens)


def test_special_tokens_are_listed(run: Run) -> None:
    found = run("vocab", EMBEDDED, "--special", "--json").json["special"]
    assert [tokens[0]["id"] for tokens in found] == list(range(768, 1024))


def test_two_side_by_side(run: Run, source: Callable[..., Path]) -> None:
    other = source("2-2shards")
    found = run("vocab", EMBEDDED, other, "--text", TEXT, "--id", 600, "--sample", 3, "--json").json
    assert [side["rows"] for side in found["vocabularies"]] == [1024, 512]
    assert found["ids"][0][1] is None
    _, (_, *theirs) = found["texts"][0]["splits"]
    judge = sentencepiece.SentencePieceProcessor(model_file=str(other / "tokenizer.model"))
    assert [token["id"] for token in theirs] == judge.encode(TEXT)
    assert bytes.fromhex("".join(token["bytes"] for token in theirs)).decode() == f" {TEXT}"
    shown = run("vocab", EMBEDDED, other, "--id", 600, "--text", TEXT)
    assert "no token" in shown.out


def test_no_weight_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_convert.verify import model, reading

    monkeypatch.setattr(reading, "read_bytes", None)
    monkeypatch.setattr(model, "load_model", None)
    assert run("vocab", EMBEDDED).status == 0


def test_ids_outside_are_refused_together(run: Run) -> None:
    result = run("vocab", EMBEDDED, "--id", 1024, "--id", 5, "--id", -1)
    check_refusal(result, 2)
    assert "no token 1024" in result.err
    assert "no token -1" in result.err
    check_refusal(run("vocab", "nowhere"), 2)
