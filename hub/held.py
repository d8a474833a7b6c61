"""What of a checkpoint is here already, wherever in the cache it lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from llama_convert.hub.checked import Memory, all_whole, same_size
from llama_convert.hub.client_cache import blobs
from llama_convert.hub.fetch import arrived
from llama_convert.hub.layouts import HF, ORIGINAL, Choice, choices
from llama_convert.hub.places import Place
from llama_convert.hub.repository import RemoteEntry, Snapshot

# Called with a number of bytes and what they are of; gives what is called with bytes done.
Progress: TypeAlias = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]
# Those that a publisher makes of the same weights; a GGUF is made of one of them, and mostly rounded.
_EQUAL = (HF, ORIGINAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """One file. target: where its bytes go. held: a file of its digest that is here already, the target or another.

    arrived: bytes that an interrupted run left. replaces: at the target lies a file that is another, or damaged.
    """

    entry: RemoteEntry
    target: Path
    held: Path | None
    arrived: int
    replaces: bool

    @property
    def to_fetch(self) -> int:
        """Bytes that must come over the network."""
        return 0 if self.held else self.entry.size - self.arrived


def planned_files(
    snapshot: Snapshot, choice: Choice, place: Place, memory: Memory, progress: Progress
) -> tuple[PlannedFile, ...]:
    """Where each file is or will be; what is here is held against its digest."""
    candidates = [
        (path, entry)
        for entry in choice.entries
        for path in dict.fromkeys((place.target(entry), *blobs(snapshot.repository, entry.digest)))
        if same_size(path, entry)
    ]
    unknown = sum(entry.size for path, entry in candidates if not memory.holds(path, entry.digest))
    with progress(unknown, "checking what is here") as update:
        whole = all_whole(candidates, memory, update)
    return tuple(
        _planned(entry, place.target(entry), [path for path, digest in whole if digest == entry.digest])
        for entry in choice.entries
    )


def _planned(entry: RemoteEntry, target: Path, whole: Sequence[Path]) -> PlannedFile:
    held = target if target in whole else next(iter(sorted(whole)), None)
    return PlannedFile(
        entry=entry,
        target=target,
        held=held,
        arrived=0 if held else arrived(target, entry.digest),
        replaces=target.exists() and held != target,
    )


def held_instead(snapshot: Snapshot, suited: Choice, memory: Memory, progress: Progress) -> Choice | None:
    """Another checkpoint of the same weights that is here, all of it, where the one that suits is not.

    Cost: as of `planned_files`, for those alone that are here by their sizes.
    """
    if suited.what not in _EQUAL or _is_held(snapshot, suited, memory, progress):
        return None
    others = (choice for choice in choices(snapshot) if choice.what in _EQUAL and choice != suited)
    return next((choice for choice in others if _is_held(snapshot, choice, memory, progress)), None)


def _is_held(snapshot: Snapshot, choice: Choice, memory: Memory, progress: Progress) -> bool:
    found = {
        entry.digest: [path for path in blobs(snapshot.repository, entry.digest) if same_size(path, entry)]
        for entry in choice.entries
    }
    if not all(found.values()):
        return False
    candidates = [(path, entry) for entry in choice.entries for path in found[entry.digest]]
    unknown = sum(entry.size for path, entry in candidates if not memory.holds(path, entry.digest))
    with progress(unknown, "checking what is here") as update:
        return {digest for _, digest in all_whole(candidates, memory, update)} == found.keys()
