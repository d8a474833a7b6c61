"""Proof of a changed vocabulary: what was there is the same model still, and no new row outranks what is trained.

Rows that only one side has are left out of its files' tables, and what remains is verified as two models are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from llama_convert.convert.architecture import Role
from llama_convert.convert.checkpoint import Checkpoint, Parts
from llama_convert.convert.claims import read_claims
from llama_convert.verify import compare, structure, tensors, tokenizer
from llama_convert.verify.devices import Computing, choose, exact
from llama_convert.verify.forward import load_as, logits_of
from llama_convert.verify.judges import open_judge
from llama_convert.verify.levels import opened_pair
from llama_convert.verify.loads import ahead
from llama_convert.verify.prompts import prompts
from llama_convert.verify.reading import Piece
from llama_convert.verify.report import LevelResult, judged, not_checked
from llama_convert.verify.tokenizer_judges import MissingLibrary

NAME = "new rows"


def verify_resized(
    a: Path,
    b: Path,
    *,
    llama_version: str | None = None,
    assume: Mapping[str, str] | None = None,
    device: str = "auto",
) -> Iterator[LevelResult]:
    """Whether B is A with more or fewer rows of embedding and head, each level's result as soon as it is known.

    The rows that both have, and every other weight, must be equal as `verify` judges it; the tokens of A must be
    those of B under the same ids, with the same ids for texts; the logits of the rows that both have must agree.
    Then B's new rows: at no position of the prompts may one have the largest logit.
    Raises UsageError: no such device or folder. CheckpointError: a side that cannot be opened.
    """
    first, second = opened_pair(a, b, llama_version, assume)
    computing = choose(device)
    rows = min(first.config.vocab_size, second.config.vocab_size)
    before, after = without_rows(first, rows), without_rows(second, rows)
    yield structure.check_structure(before, after)
    yield tensors.check_tensors(before, after)
    yield _check_tokenizer(first, second)
    yield compare.check_logits(before, after, computing)[0]
    yield check_new_rows(before, second, computing)


def without_rows(checkpoint: Checkpoint, rows: int) -> Checkpoint:
    """The checkpoint with so many rows of embedding and head, as if its files had no more."""
    parts = {
        weight: _cut(found, rows) if weight.role in (Role.TOKENS, Role.HEAD) else found
        for weight, found in checkpoint.parts.items()
    }
    return replace(checkpoint, parts=parts, config=replace(checkpoint.config, vocab_size=rows))


def _cut(parts: Parts, rows: int) -> Parts:
    """On axis 0 shards have rows one after the other, else each of them has all."""
    kept: list[Piece] = []
    left = rows
    for piece in parts.pieces:
        count = min(piece.shape[0], left)
        if count:
            kept.append(piece.rows(0, count))
        left -= count if parts.axis == 0 else 0
    return Parts(tuple(kept), parts.axis)


def _check_tokenizer(a: Checkpoint, b: Checkpoint) -> LevelResult:
    """A's tokens in B, and texts in both; tokens that only B has are new."""
    if a.tokenizer is None or b.tokenizer is None:
        return not_checked(tokenizer.NAME, "a side has no tokenizer file")
    try:
        before, after = open_judge(a), open_judge(b, read_claims(b.path).special_tokens)
    except MissingLibrary as error:
        return not_checked(tokenizer.NAME, f"{error.summary}: {error.advice}")
    old = {number: token for number, token in after.tokens.items() if number in before.tokens}
    return tokenizer.compare_tokenizers(before, replace(after, tokens=old))


def check_new_rows(a: Checkpoint, b: Checkpoint, computing: Computing) -> LevelResult:
    """Whether a row that A has not is B's first choice anywhere on the prompts."""
    old, count = a.config.vocab_size, b.config.vocab_size - a.config.vocab_size
    if count <= 0:
        return judged(NAME, "none", ())
    load = load_as(torch.float32, computing.device)
    with exact(), ahead(load, b) as loaded:
        found = torch.cat(logits_of(b, prompts(a, b), loaded))
    best_old, best_new = found[:, :old].amax(dim=1), found[:, old:].amax(dim=1)
    wins = int((best_new > best_old).sum())
    spread = found[:, :old].std().item()
    nearest = (best_old - best_new).min().item() / spread
    figures = f"{count:,} of {b.config.vocab_size:,}; nearest to the first choice: {nearest:.2g} spreads below it"
    findings = (f"a new row has the largest logit at {wins} of {len(found)} positions",) if wins else ()
    measures = {"rows": count, "positions": len(found), "wins": wins, "nearest": nearest}
    return judged(NAME, figures, findings, measures=measures)
