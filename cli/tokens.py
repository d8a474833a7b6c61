"""`vocab`: which tokens a checkpoint has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from llama_convert.cli import options
from llama_convert.cli.output import Output, table
from llama_convert.cli.sources import found_on_hub, repository_meant

if TYPE_CHECKING:
    from llama_convert.verify.token_lists import Token, Vocabulary

_SAMPLES = 10
Row = tuple[str, ...]


def vocab(
    source: options.UnfetchedSource,
    other: Annotated[
        Path | None, Argument(metavar="OTHER", help="A second checkpoint, shown beside it.", show_default=False)
    ] = None,
    sample: Annotated[
        int | None,
        Option(
            "--sample",
            min=0,
            help=f"Tokens to show by chance (default: {_SAMPLES}, unless others are asked for).",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, Option("--seed", help="Of --sample: the same seed shows the same tokens.")] = 0,
    ids: Annotated[
        list[int] | None, Option("--id", help="Show the token of this id; may be repeated.", show_default=False)
    ] = None,
    text: Annotated[
        list[str] | None,
        Option("--text", metavar="TEXT", help="Show how a text is split; may be repeated.", show_default=False),
    ] = None,
    special: Annotated[bool, Option("--special", help="List all special tokens.")] = False,
    what: options.What = None,
    tokenizer_path: options.TokenizerPath = None,
    llama_version: options.LlamaVersion = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show a checkpoint's tokens: how many, the special ones, some others, and how a text is split."""
    from llama_convert.verify.token_lists import check_ids, sampled

    output = Output(json=json, quiet=quiet)
    if other is None or repository_meant(other) is None:
        repository_meant(source, what)  # refuses --what where there is no repository
    sides = [_side(source, what, tokenizer_path, llama_version, output)]
    sides += [_side(other, what, None, llama_version, output)] if other else []
    check_ids(ids or [], sides)
    asked = bool(ids or text or special)
    count = sample if sample is not None else 0 if asked else _SAMPLES
    listed = {
        "ids": list(ids or []),
        "special": sorted({number for side in sides for number in side.judge.special.values()}) if special else [],
        "sample": sampled(sides[0], count, seed),
    }
    output.result(table(_summary(sides)))
    for numbers in filter(None, listed.values()):
        output.result("\n" + table(_token_rows(sides, numbers)))
    for one in text or []:
        output.result(f"\n{one!r}\n" + table(_split_rows(sides, one)))
    output.data(_json(sides, listed, text or []))


def _side(
    source: Path, what: str | None, tokenizer: Path | None, llama_version: str | None, output: Output
) -> Vocabulary:
    """A checkpoint's tokens; of a repository that is not complete in the cache no weights are fetched for them."""
    from llama_convert.hub import laid_out
    from llama_convert.verify.token_lists import open_vocabulary

    name = repository_meant(source)
    if name is None:
        return open_vocabulary(source, tokenizer, llama_version)
    there = found_on_hub(name, what, stored_first=True)
    if there.stored:
        output.say(f"{name}: from the cache, at commit {there.snapshot.commit}")
    with laid_out(there.snapshot, there.choice) as mount:
        found = open_vocabulary(mount.place, tokenizer, llama_version)
        return found.called(mount.known_as)


def _summary(sides: Sequence[Vocabulary]) -> list[Row]:
    rows: list[Row] = [
        ("checkpoint", *(str(side.checkpoint.path) for side in sides)),
        ("tokenizer", *(f"{side.judge.path.name}, run by {side.judge.library}" for side in sides)),
        ("tokens", *(f"{len(side.judge.tokens):,}, {len(side.judge.special):,} of them special" for side in sides)),
        ("rows", *(f"{side.rows:,}" for side in sides)),
        ("begin", *(_named(side, side.begin) for side in sides)),
        ("ends", *(_named(side, side.ends) for side in sides)),
    ]
    return rows


def _named(side: Vocabulary, numbers: Sequence[int]) -> str:
    return ", ".join(f"{number} {side.judge.name_of(number)}" for number in numbers) or "none"


def _token_rows(sides: Sequence[Vocabulary], numbers: Sequence[int]) -> list[Row]:
    rows: list[Row] = [("id", *(["text", "bytes"] * len(sides)))]
    for number in numbers:
        rows.append((str(number), *(cell for side in sides for cell in _cells(side.token(number)))))
    return rows


def _split_rows(sides: Sequence[Vocabulary], text: str) -> list[Row]:
    """The tokens of each side under each other, one column of them beside the other."""
    rows: list[Row] = [("", *(["id", "text", "bytes"] * len(sides)))]
    for place, tokens in enumerate(zip_longest(*(side.split(text) for side in sides)), start=1):
        cells = [(str(token.id) if token else "", *(_cells(token) if token else ("", ""))) for token in tokens]
        rows.append((str(place), *(cell for row in cells for cell in row)))
    return rows


def _cells(token: Token | None) -> Row:
    if token is None:
        return ("no token", "")
    return (token.text, "special" if token.special else token.content.hex(" "))


def _json(sides: Sequence[Vocabulary], listed: dict[str, list[int]], texts: Sequence[str]) -> dict[str, Any]:
    def shown(token: Token | None) -> dict[str, Any] | None:
        return token.as_json() if token else None

    return {
        "ok": True,
        "vocabularies": [
            {
                "path": str(side.checkpoint.path),
                "tokenizer": str(side.judge.path),
                "library": side.judge.library,
                "tokens": len(side.judge.tokens),
                "special": len(side.judge.special),
                "rows": side.rows,
                "begin": list(side.begin),
                "ends": list(side.ends),
            }
            for side in sides
        ],
        **{name: [[shown(side.token(number)) for side in sides] for number in listed[name]] for name in listed},
        "texts": [
            {"text": text, "splits": [[shown(token) for token in side.split(text)] for side in sides]} for text in texts
        ],
    }
