"""`diff` and `inspect --fingerprint` through the real command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.commands import Result

Run = Callable[..., Result]


def test_the_same_model(run: Run, source: Callable[..., Path], converted: Path) -> None:
    result = run("diff", source("3-2shards"), converted)
    assert (result.status, result.out) == (0, "no difference: 21 weights, config and tokenizer\n")


def test_another_model(run: Run, source: Callable[..., Path], converted: Path) -> None:
    other = source("3", tokenizer="tiktoken", seed=1)
    result = run("diff", other, converted)
    assert result.status == 1
    assert "21 of 21 weights differ" in result.out
    found = run("diff", other, converted, "--json").json
    assert (found["ok"], len(found["weights"])) == (False, 21)


def test_the_fingerprint_is_the_same_in_both_formats(run: Run, source: Callable[..., Path], converted: Path) -> None:
    sides = (source("3-2shards"), converted)
    both = [run("inspect", side, "--fingerprint", "--json").json["fingerprint"] for side in sides]
    assert both[0] == both[1]
    assert len(both[0]["weights"]) == 21
    printed = run("inspect", converted, "--fingerprint").out
    assert printed.splitlines()[-1].split() == ["all", "weights", both[0]["model"]]
