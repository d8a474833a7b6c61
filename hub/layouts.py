"""Which checkpoints lie in a repository, told from the names of its files; exactly one is chosen."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from llama_convert.convert.errors import UsageError, counted
from llama_convert.hub.repository import RemoteEntry, Snapshot

ORIGINAL, HF, GGUF, TOKENIZER, CONFIG = "original", "hf", "gguf", "tokenizer", "config"
# What a user most likely wants of a repository, the likeliest first.
LIKELIEST = (HF, ORIGINAL, GGUF)

_TOKENIZER_NAMES = (
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|tokenizer\.model|"
    r"vocab\.json|merges\.txt|chat_template\.(json|jinja)"
)
# Terms that go with the weights wherever these go.
_TERMS = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)(\.\w+)?", re.IGNORECASE)
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}")
# llama.cpp's name of a type at the end of a file's name: Q4_K_M, IQ2_XXS, UD-Q4_K_XL, F16, BF16.
_TYPE = re.compile(r".*?[-._]((?:UD[-_])?I?Q\d\w*|MXFP4\w*|BF16|FP?16|FP?32)", re.IGNORECASE)
_LISTED = 20  # entries of a repository that a message names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """How a checkpoint of one kind looks inside one folder; patterns are of whole names.

    weights: alternatives, each with its index ("" for none), of which the first that is there is taken. needs: a
    name that must lie beside them. beside: small files that belong to them. above: a name that is taken from the
    next folder above that has it. below: small files in folders below it. apart: every file, or set of numbered
    ones, is a checkpoint of its own.
    """

    name: str
    weights: tuple[tuple[str, str], ...]
    needs: str | None = None
    beside: str = ""
    above: str | None = None
    below: str = ""
    apart: bool = False


_KINDS = (
    _Kind(
        name=HF,
        weights=(
            (r"model(-\d+-of-\d+)?\.safetensors", r"model\.safetensors\.index\.json"),
            (r"pytorch_model(-\d+-of-\d+)?\.bin", r"pytorch_model\.bin\.index\.json"),
        ),
        needs="config.json",
        beside=rf"config\.json|generation_config\.json|conversion\.json|{_TOKENIZER_NAMES}",
        below=r"original/(params\.json|tokenizer\.model)",  # Meta's own, which a conversion keeps
    ),
    _Kind(
        name=ORIGINAL,
        weights=((r"consolidated\.\d\d\.pth|fp8_scales_\d+\.pt", ""),),
        needs="params.json",
        beside=r"params\.json|tokenizer\.model|special_tokens\.json|(tokenizer_)?checklist\.chk|conversion\.json",
        above="tokenizer.model",
    ),
    _Kind(name=GGUF, weights=((r"(?!mmproj|imatrix).+(?<!imatrix)\.gguf", ""),), apart=True),
)
# Of the whole repository: small files, taken wherever they lie.
_SMALL = {TOKENIZER: _TOKENIZER_NAMES, CONFIG: r"config\.json|generation_config\.json|params\.json"}
WHATS = (*(kind.name for kind in (_KINDS[1], _KINDS[0], _KINDS[2])), *_SMALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One checkpoint in a repository, or its small files.

    what: a kind. name: what tells it from others of its kind; "" in the usual folder. place: what a converter opens,
    inside the repository: a folder, "" for the root, or a gguf. entries: all its files, weights first.
    """

    what: str
    name: str
    place: str
    weights: tuple[RemoteEntry, ...]
    entries: tuple[RemoteEntry, ...]

    def __str__(self) -> str:
        return f"{self.what}:{self.name}" if self.name else self.what

    @property
    def nbytes(self) -> int:
        """Bytes of all its files."""
        return sum(entry.size for entry in self.entries)

    def answers_to(self, name: str) -> bool:
        """Whether a user may mean it by this: its name, its type, its place, or the last part of that."""
        stem = _stem(self.place)
        names = {self.name, self.place, stem, *([_type(stem)] if self.what == GGUF else [])}
        return name.lower() in {known.lower() for full in names if full for known in (full, PurePosixPath(full).name)}


def choices(snapshot: Snapshot) -> tuple[Choice, ...]:
    """Every checkpoint in the repository, and its small files by kind."""
    folders: dict[str, list[RemoteEntry]] = defaultdict(list)
    for entry in sorted(snapshot.entries, key=lambda entry: entry.path):
        folders[_folder(entry)].append(entry)
    found = [choice for kind in _KINDS for folder in folders for choice in _checkpoints(kind, folder, folders)]
    small = (_small(what, pattern, snapshot) for what, pattern in _SMALL.items())
    return (*found, *(choice for choice in small if choice.entries))


def choose(snapshot: Snapshot, what: str | None = None, likeliest: Sequence[str] = LIKELIEST) -> Choice:
    """The one checkpoint that is meant.

    what: a kind, or `kind:name` where there are several of it; None for the first of `likeliest` that is there.
    Raises UsageError, with what there is: no such kind, none of it, or several of it.
    """
    kind, _, name = (what or "").partition(":")
    if what is not None and kind not in WHATS:
        raise UsageError(f"--what {what}: there is no such", advice=f"Known are {', '.join(WHATS)}.")
    found = choices(snapshot)
    order = (kind,) if kind else likeliest
    of_kind = next((some for form in order if (some := [one for one in found if one.what == form])), [])
    if not of_kind:
        raise _nothing(snapshot, " or ".join(order), found)
    meant = [choice for choice in of_kind if choice.answers_to(name)] if name else _outermost(of_kind)
    if len(meant) != 1:
        raise _which(snapshot, f"{kind}:{name}" if name else of_kind[0].what, meant or of_kind, known=bool(meant))
    return meant[0]


def left_alone(snapshot: Snapshot, choice: Choice) -> tuple[RemoteEntry, ...]:
    """What of the repository is not in the choice."""
    taken = {entry.path for entry in choice.entries}
    return tuple(entry for entry in snapshot.entries if entry.path not in taken)


def _folder(entry: RemoteEntry) -> str:
    return entry.path.rpartition("/")[0]


def _name(entry: RemoteEntry) -> str:
    return entry.path.rpartition("/")[2]


def _checkpoints(kind: _Kind, folder: str, folders: Mapping[str, Sequence[RemoteEntry]]) -> Iterator[Choice]:
    weights, index = _weights(kind, folders[folder])
    if not weights or (kind.needs and kind.needs not in map(_name, folders[folder])):
        return
    if kind.apart:
        yield from _apart(kind, weights)
        return
    beside = _named(kind.beside, folders[folder])
    below = [entry for entry in _below(folder, folders) if re.fullmatch(kind.below, _inside(folder, entry))]
    terms = [entry for entry in folders.get("", ()) if _TERMS.fullmatch(_name(entry))]
    yield Choice(
        what=kind.name,
        name="" if folder == kind.name else PurePosixPath(folder).name,
        place=folder,
        weights=weights,
        entries=(*weights, *index, *beside, *below, *_from_above(kind, folder, beside, folders), *terms),
    )


def _below(folder: str, folders: Mapping[str, Sequence[RemoteEntry]]) -> Iterator[RemoteEntry]:
    for inner, entries in folders.items():
        if inner != folder and (not folder or inner.startswith(f"{folder}/")):
            yield from entries


def _inside(folder: str, entry: RemoteEntry) -> str:
    """The path of an entry below the folder, seen from there."""
    return entry.path.removeprefix(f"{folder}/") if folder else entry.path


def _weights(kind: _Kind, entries: Sequence[RemoteEntry]) -> tuple[tuple[RemoteEntry, ...], tuple[RemoteEntry, ...]]:
    """The weight files of the best alternative that is there, and their index."""
    found = ((_named(pattern, entries), _named(index, entries)) for pattern, index in kind.weights)
    return next((both for both in found if both[0]), ((), ()))


def _named(pattern: str, entries: Iterable[RemoteEntry]) -> tuple[RemoteEntry, ...]:
    return tuple(entry for entry in entries if re.fullmatch(pattern, _name(entry)))


def _from_above(
    kind: _Kind, folder: str, beside: Sequence[RemoteEntry], folders: Mapping[str, Sequence[RemoteEntry]]
) -> tuple[RemoteEntry, ...]:
    if kind.above is None or kind.above in map(_name, beside) or not folder:
        return ()
    above = [str(parent) if str(parent) != "." else "" for parent in PurePosixPath(folder).parents]
    found = (entry for place in above for entry in folders.get(place, ()) if _name(entry) == kind.above)
    return tuple(found)[:1]


def _apart(kind: _Kind, weights: Sequence[RemoteEntry]) -> Iterator[Choice]:
    """Each file as one choice, numbered parts together; named after their types where these tell them apart."""
    sets: dict[str, list[RemoteEntry]] = defaultdict(list)
    for entry in weights:
        sets[_stem(entry.path)].append(entry)
    types = {stem: _type(stem) for stem in sets}
    for stem, entries in sets.items():
        own = types[stem]
        unique = own is not None and list(types.values()).count(own) == 1
        yield Choice(
            what=kind.name,
            name=own if own and unique else PurePosixPath(stem).name,
            place=entries[0].path,
            weights=tuple(entries),
            entries=tuple(entries),
        )


def _stem(path: str) -> str:
    """The path without the ending and, where it is one of several numbered files, without the number."""
    stem = path.removesuffix(".gguf")
    match = _SHARD.fullmatch(stem)
    return match["stem"] if match else stem


def _type(stem: str) -> str | None:
    match = _TYPE.fullmatch(stem)
    return match[1] if match else None


def _small(what: str, pattern: str, snapshot: Snapshot) -> Choice:
    entries = _named(pattern, snapshot.entries)
    folders = {_folder(entry) for entry in entries}
    return Choice(what=what, name="", place=folders.pop() if len(folders) == 1 else "", weights=(), entries=entries)


def _outermost(found: Sequence[Choice]) -> list[Choice]:
    """Those nearest to the root; all gguf files are as near."""
    depths = [0 if choice.what == GGUF else len(PurePosixPath(choice.place).parts) for choice in found]
    return [choice for choice, depth in zip(found, depths, strict=True) if depth == min(depths)]


def _nothing(snapshot: Snapshot, wanted: str, found: Sequence[Choice]) -> UsageError:
    there = [_line(choice) for choice in found]
    files = [f"{entry.path}, {entry.size:,} bytes" for entry in sorted(snapshot.entries, key=lambda one: -one.size)]
    return UsageError(
        f"{snapshot.asked}: no {wanted} in its {counted(len(snapshot.entries), 'file')}",
        problems=_shortened(there or files),
        advice="Choose one of these." if there else "Give a repository that holds a Llama.",
    )


def _which(snapshot: Snapshot, asked: str, found: Sequence[Choice], *, known: bool) -> UsageError:
    return UsageError(
        f"{snapshot.asked}: {asked} could be any of {len(found)}" if known else f"{snapshot.asked}: no {asked} there",
        problems=_shortened([_line(choice) for choice in found]),
        advice=f"Name one, such as --what {found[0]}.",
    )


def _line(choice: Choice) -> str:
    where = f" in {choice.place}" if choice.place else ""
    return f"--what {choice}: {counted(len(choice.entries), 'file')}, {choice.nbytes:,} bytes{where}"


def _shortened(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _LISTED
    return [*lines[:_LISTED], *([f"and {more:,} more"] if more > 0 else [])]
