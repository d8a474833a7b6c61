"""A tokenizer.json as it lies there: its parts, found to have the right shapes, not yet understood."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_convert.convert.errors import CheckpointError, counted
from llama_convert.convert.tokenizers.problems import capped, read_bytes

Json = Mapping[str, Any]

STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
STRIPPING = ("single_word", "lstrip", "rstrip")
TELLING = "Is this the tokenizer of a Llama, and whole? Download it again, or take Meta's tokenizer.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """An entry of `added_tokens`."""

    id: int
    text: str
    special: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The parts of a tokenizer.json.

    texts: of the model's own tokens, by id. merges: "left right", best first. model: its settings, without
    either. added: in the order of their ids. The four steps are None where the file has none.
    """

    path: Path
    texts: tuple[str, ...]
    merges: tuple[str, ...]
    model: Json
    added: tuple[Added, ...]
    normalizer: Json | None
    pre_tokenizer: Json | None
    post_processor: Json | None
    decoder: Json | None


def read_document(path: Path) -> Document:
    """The parts of the file. Raises CheckpointError with every finding: no JSON, no BPE model, ids with gaps.

    Cost: 0.2 s and 60 MB for Llama 3 (6.7 MB).
    """
    whole = _load(path)
    model = whole["model"]
    if model.get("type", "BPE") != "BPE":
        refuse(path, [f"its model is {model['type']}, wanted BPE"])
    vocabulary, merges, added = model.get("vocab"), model.get("merges"), whole.get("added_tokens") or []
    problems = [*_vocabulary_problems(vocabulary), *_merge_problems(merges), *_added_problems(added)]
    problems += [f"{key} is {whole[key]!r:.60}, wanted an object" for key in STEPS if _is_no_step(whole.get(key))]
    refuse(path, problems)
    return Document(
        path=path,
        texts=tuple(sorted(vocabulary, key=vocabulary.__getitem__)),
        merges=tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in merges),
        model={key: value for key, value in model.items() if key not in ("vocab", "merges")},
        added=tuple(sorted((_added(entry) for entry in added), key=lambda token: token.id)),
        **{key: whole.get(key) for key in STEPS},
    )


def refuse(path: Path, problems: Sequence[str], what: str = "not the tokenizer of a Llama") -> None:
    """Raise CheckpointError with all the problems, where there are any."""
    if problems:
        summary = f"{path}: {what} ({counted(len(problems), 'problem')})."
        raise CheckpointError(summary, problems=capped(problems), advice=TELLING)


def steps(part: Json | None, key: str) -> list[Json]:
    """The single steps of a part of the file. key: that a sequence has them under, as `normalizers`."""
    if part is None:
        return []
    inner = part.get(key) if part.get("type") == "Sequence" else None
    if not isinstance(inner, list):
        return [part]
    return [step for step in inner if isinstance(step, dict)]


def numbering_problems(document: Document, first: int) -> list[str]:
    """What is wrong with the ids and names of the added tokens from id `first` on: gaps, and those given twice."""
    ids = [token.id for token in document.added if token.id >= first]
    names = [token.text for token in document.added]
    gaps = sorted({*range(first, max(ids, default=first))} - {*ids})
    findings = {
        f"the added tokens leave gaps behind the {first:,} others: missing are {listed(gaps)}": bool(gaps),
        f"{len(ids) - len(set(ids))} added tokens have the id of another": len(set(ids)) < len(ids),
        f"{len(names) - len(set(names))} added tokens have the name of another": len(set(names)) < len(names),
    }
    return [finding for finding, holds in findings.items() if holds]


def plain_settings(document: Document, **wanted: object) -> list[str]:
    """What the model's settings say that a Llama's do not; `wanted` are those on which its kinds differ."""
    plain = {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None} | wanted
    found = {key: document.model.get(key) or None for key in plain}  # "", 0, false and null say the same
    return [
        f"its model has {key} {found[key]!r}, wanted {value!r}"
        for key, value in plain.items()
        if found[key] != (value or None)
    ]


def has(step: Json, **wanted: object) -> bool:
    """Whether the step has all these values."""
    return all(key in step and step[key] == value for key, value in wanted.items())


def _load(path: Path) -> Json:
    try:
        whole = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no JSON: {error}.", advice=TELLING) from error
    if not isinstance(whole, dict) or not isinstance(whole.get("model"), dict):
        raise CheckpointError(f"{path}: no tokenizer.json: it has no model.", advice=TELLING)
    return whole


def _is_no_step(value: object) -> bool:
    return value is not None and not isinstance(value, dict)


def _vocabulary_problems(vocabulary: object) -> Iterator[str]:
    if not isinstance(vocabulary, dict) or not all(type(number) is int for number in vocabulary.values()):
        yield "its model has no vocabulary of tokens and ids"
        return
    count = len(vocabulary)
    ids = set(vocabulary.values())
    gaps = sorted({*range(count)} - ids)
    if gaps:
        yield f"its {count:,} tokens have not the ids 0 to {count - 1}: missing are {listed(gaps)}"


def listed(numbers: Sequence[int]) -> str:
    """The first few of the numbers, and how many more there are."""
    shown = ", ".join(str(number) for number in numbers[:6])
    return shown if len(numbers) <= 6 else f"{shown} and {len(numbers) - 6:,} more"


def _merge_problems(merges: object) -> Iterator[str]:
    if not isinstance(merges, list):
        yield "its model has no list of merges"
        return
    wrong = [merge for merge in merges if not (isinstance(merge, str) or _is_pair(merge))]
    if wrong:
        yield f"{len(wrong):,} of its merges are not a pair of texts, the first is {wrong[0]!r:.60}"


def _is_pair(merge: object) -> bool:
    return isinstance(merge, list) and len(merge) == 2 and isinstance(merge[0], str) and isinstance(merge[1], str)


def _added_problems(added: object) -> Iterator[str]:
    if not isinstance(added, list):
        yield "added_tokens is no list"
        return
    for entry in added:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not isinstance(entry.get("content"), str):
            yield f"an added token has no id or no content: {entry!r:.80}"
        else:
            yield from (
                f"the added token {entry['content']!r} has {key}, which no other format can say"
                for key in STRIPPING
                if entry.get(key)
            )


def _added(entry: Json) -> Added:
    return Added(id=entry["id"], text=entry["content"], special=bool(entry.get("special")))
