"""One checkpoint of a repository, fetched: planned first, and carried out only where it can be to the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llama_convert.convert.errors import UsageError, counted
from llama_convert.hub.checked import Memory
from llama_convert.hub.client_cache import is_listed, locked, stored_snapshot
from llama_convert.hub.disks import Disk, check_disks, disks, nearest
from llama_convert.hub.errors import HubError, explained
from llama_convert.hub.fetch import fetch, partial_files
from llama_convert.hub.held import PlannedFile, Progress, held_instead, planned_files
from llama_convert.hub.layouts import LIKELIEST, Choice, choose, left_alone
from llama_convert.hub.places import Place, find_place
from llama_convert.hub.remote import RemoteFile
from llama_convert.hub.repository import RemoteEntry, RepositoryName, Snapshot, look_up

_BLOCK = 512  # bytes, whatever the file system's own are
_LISTED = 20  # missing files that a message names


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadPlan:
    """What a download will do. left: what of the repository is left alone.

    refusal: why what is missing may not be fetched; None where it may, or nothing is missing.
    instead_of: what suits better but is not here; None where the choice is the one that suits best.
    """

    snapshot: Snapshot
    choice: Choice
    place: Place
    files: tuple[PlannedFile, ...]
    left: tuple[RemoteEntry, ...]
    disks: tuple[Disk, ...]
    refusal: HubError | None
    instead_of: Choice | None
    memory: Memory = field(repr=False)

    @property
    def checkpoint(self) -> Path:
        """What a converter will open: a folder, or a gguf."""
        return self.place.root / self.choice.place

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self.choice.nbytes

    @property
    def to_fetch(self) -> int:
        """Bytes that must come over the network; files with the same bytes count once."""
        return sum({file.target: file.to_fetch for file in self.files}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    """A finished download. checkpoint: what a converter opens. fetched: bytes that came. reused: that were here."""

    plan: DownloadPlan
    checkpoint: Path
    fetched: int
    reused: int


@contextmanager
def _silent(total: int, what: str) -> Iterator[Callable[[int], None]]:
    del total, what
    yield lambda nbytes: None


def plan_download(
    name: RepositoryName,
    what: str | None = None,
    *,
    to: Path | None = None,
    likeliest: Sequence[str] = LIKELIEST,
    held_first: bool = False,
    needs: Callable[[Choice], Mapping[Path, int]] = lambda choice: {},
    progress: Progress = _silent,
) -> DownloadPlan:
    """What a download would do; nothing is written.

    what, likeliest: as in `choose`. to: a folder; None for the client's cache. held_first: where `what` is None, take
    rather a checkpoint of the same weights that the cache has than fetch the one that suits. needs: bytes that will be
    written to other places afterwards, by place. progress: shown while files are held against their digests.
    Raises UsageError: no such checkpoint, or several. CheckpointError: names that lead out of the place. HubError.
    Cost: two requests and one for each thousand files, one more where it is gated; 1 GB/s for files that are here.
    """
    snapshot, offline = _snapshot(name)
    memory = Memory()
    suited = _choice(snapshot, what, likeliest, offline=offline)
    other = held_instead(snapshot, suited, memory, progress) if held_first and what is None else None
    choice = other or suited
    place = find_place(snapshot, to, choice.entries, [entry.path for entry in choice.weights])
    files = planned_files(snapshot, choice, place, memory, progress)
    missing = [file for file in files if file.held is None]
    return DownloadPlan(
        snapshot=snapshot,
        choice=choice,
        place=place,
        files=files,
        left=left_alone(snapshot, choice),
        disks=disks({place.root: _written(files, place), **needs(choice)}),
        refusal=(_not_stored(snapshot, files, missing) if offline else _refusal(snapshot)) if missing else None,
        instead_of=suited if other else None,
        memory=memory,
    )


def download(
    plan: DownloadPlan,
    *,
    on_bytes: Callable[[int], None] = lambda nbytes: None,
    on_note: Callable[[str], None] = lambda text: None,
    xet: bool = True,
) -> Downloaded:
    """Carry out the plan. Each file appears under its name only when it is whole and its digest held.

    on_bytes: called with bytes as they come, `plan.to_fetch` in all. on_note: called with what the user should know.
    Raises HubError: no access. SpaceError: a disk that will not do; then nothing was fetched.
    """
    if plan.refusal is not None:
        raise plan.refusal
    check_disks(plan.snapshot.asked, plan.disks)
    plan.place.begin([file.entry for file in plan.files])
    fetched = 0

    def came(nbytes: int) -> None:
        nonlocal fetched
        fetched += nbytes
        on_bytes(nbytes)

    try:
        for file in plan.files:
            xet = _obtain(plan, file, came, on_note, xet=xet)
            plan.place.settle(file.entry)
            plan.memory.note(file.target, file.entry.digest)
        note = plan.place.finish()
    finally:
        plan.memory.save()
    if note:
        on_note(note)
    return Downloaded(
        plan=plan,
        checkpoint=plan.checkpoint,
        fetched=fetched,
        reused=sum(file.entry.size for file in plan.files if file.held),
    )


def _snapshot(name: RepositoryName) -> tuple[Snapshot, bool]:
    """The repository as it is now or, in offline mode, as the cache knows it; and whether that is on."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        return look_up(name), False
    stored = stored_snapshot(name)
    if stored is None:
        raise HubError(
            f"{name}: offline mode is on, and the cache does not hold it",
            advice="Unset HF_HUB_OFFLINE and run it again.",
        )
    return stored, True


def _choice(snapshot: Snapshot, what: str | None, likeliest: Sequence[str], *, offline: bool) -> Choice:
    try:
        return choose(snapshot, what, likeliest)
    except UsageError as error:
        if not offline or is_listed(snapshot):
            raise
        raise HubError(
            f"{error.summary} that {'is' if len(snapshot.entries) == 1 else 'are'} in the cache; offline mode is on",
            problems=error.problems,
            advice="Unset HF_HUB_OFFLINE and run it again.",
        ) from error


def _written(files: Sequence[PlannedFile], place: Place) -> int:
    """Bytes that will be written at the place."""
    return sum({file.target: _cost(file, place) for file in files}.values())


def _cost(file: PlannedFile, place: Place) -> int:
    if file.held is None:  # room may have been set aside for the whole file
        return max(0, file.entry.size - sum(path.stat().st_blocks * _BLOCK for path in partial_files(file.target)))
    return 0 if file.held == file.target or _can_share(file.held, file, place) else file.entry.size


def _can_share(held: Path, file: PlannedFile, place: Place) -> bool:
    return place.may_share(file.entry) and held.stat().st_dev == nearest(file.target).stat().st_dev


def _refusal(snapshot: Snapshot) -> HubError | None:
    """Why the files may not be read: what the repository holds is told to anyone, its files are not."""
    from huggingface_hub import HfApi

    if not snapshot.gated:
        return None
    try:
        with explained(str(snapshot.asked)):
            HfApi().auth_check(snapshot.repository)
    except HubError as error:
        return error
    return None


def _not_stored(snapshot: Snapshot, files: Sequence[PlannedFile], missing: Sequence[PlannedFile]) -> HubError:
    names = [file.entry.path for file in missing]
    more = [f"and {len(names) - _LISTED:,} more"] if len(names) > _LISTED else []
    return HubError(
        f"{snapshot.asked}: offline mode is on; missing from the cache, or damaged there: "
        f"{counted(len(missing), 'file')} of {len(files):,}",
        problems=[*names[:_LISTED], *more],
        advice="Unset HF_HUB_OFFLINE and run it again.",
    )


def _obtain(
    plan: DownloadPlan,
    file: PlannedFile,
    on_bytes: Callable[[int], None],
    on_note: Callable[[str], None],
    *,
    xet: bool,
) -> bool:
    """Bring the file to its target; whether Xet is worth trying for the next one."""
    if file.held == file.target:
        return xet

    def waiting() -> None:
        on_note(f"{file.entry.path}: another process is fetching it; waiting for that.")

    with locked(plan.place.lock(file.entry), waiting):
        file.target.parent.mkdir(parents=True, exist_ok=True)
        if file.held is not None:
            _take(file.held, file.target, share=_can_share(file.held, file, plan.place))
            return xet
        remote = RemoteFile(plan.snapshot, file.entry)
        found = fetch(remote, file.target, on_bytes=on_bytes, on_note=on_note, xet=xet)
        tried = xet and file.entry.xet_hash is not None and found.reused < found.nbytes
        return xet and (found.over_xet or not tried)


def _take(held: Path, target: Path, *, share: bool) -> None:
    """The same bytes at the target: a second name of theirs where they may be shared, else a copy."""
    fresh = target.with_name(f".{target.name}.taken")
    fresh.unlink(missing_ok=True)
    try:
        if share:
            fresh.hardlink_to(held.resolve())
        else:
            shutil.copyfile(held, fresh)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
