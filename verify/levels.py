"""All levels of a verification, one after the other: the cheap ones first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.claims import read_claims
from llama_convert.convert.errors import UsageError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify import compare, files, structure, tensors, tokenizer
from llama_convert.verify.devices import Computing, choose
from llama_convert.verify.diagnosis import diagnose
from llama_convert.verify.report import Diagnosis, LevelResult, Parting, Report, Side, Verdict, not_checked
from llama_convert.verify.sides import described
from llama_convert.verify.tensors import TensorResult

LEVELS = (files.NAME, structure.NAME, tensors.NAME, tokenizer.NAME, compare.NAME)
# Nothing can be computed from weights that are missing or of the wrong shape.
_NEED_SHAPES = (tensors.NAME, compare.NAME)
# Levels whose failures the diagnosis gives reasons for; the others say them themselves.
_EXPLAINED = (structure.NAME, tensors.NAME, compare.NAME)


def verify(
    a: Path,
    b: Path | None = None,
    levels: Sequence[str] = LEVELS,
    *,
    llama_version: str | None = None,
    assume: Mapping[str, str] | None = None,
    device: str = "auto",
    precision: str | None = None,
) -> Report:
    """Whether B is the same model as A, and if not, why; with A alone, whether A is sound.

    levels: those to check, of LEVELS. llama_version: what the user says the model is; held against the files.
    assume: what A's files do not hold, as in `open_checkpoint`. device, precision: as in `devices.choose`.
    Raises UsageError: no such level, device or folder. CheckpointError: a side that cannot be opened.
    """
    events = list(
        verify_levels(a, b, levels, llama_version=llama_version, assume=assume, device=device, precision=precision)
    )
    return Report(
        a=a,
        b=b,
        levels=tuple(event for event in events if isinstance(event, LevelResult)),
        diagnosis=tuple(event for event in events if isinstance(event, Diagnosis)),
        sides=read_sides(a, b, llama_version=llama_version, assume=assume),
    )


def read_sides(
    a: Path, b: Path | None, *, llama_version: str | None = None, assume: Mapping[str, str] | None = None
) -> tuple[Side, ...]:
    """What the sides are, A first. Arguments and errors are those of `verify`. Cost: opening them."""
    if b is None:
        return (described(open_checkpoint(a, llama_version, assume)),)
    return tuple(map(described, opened_pair(a, b, llama_version, assume)))


def verify_levels(
    a: Path,
    b: Path | None = None,
    levels: Sequence[str] = LEVELS,
    *,
    llama_version: str | None = None,
    assume: Mapping[str, str] | None = None,
    device: str = "auto",
    precision: str | None = None,
) -> Iterator[LevelResult | Diagnosis]:
    """The same, each level's result as soon as it is known, in the order of LEVELS, and then the diagnosis."""
    unknown = [name for name in levels if name not in LEVELS]
    if unknown or not levels:
        wrong = f"No level is called {unknown[0]!r}" if unknown else "No level to check"
        raise UsageError(wrong, advice=f"Levels are {', '.join(LEVELS)}.")
    computing = choose(device, precision)
    if b is None:
        return _checked(open_checkpoint(a, llama_version, assume), None, levels, computing)
    return _checked(*opened_pair(a, b, llama_version, assume), levels, computing)


def opened_pair(
    a: Path, b: Path, llama_version: str | None, assume: Mapping[str, str] | None
) -> tuple[Checkpoint, Checkpoint]:
    """Both sides, as the same version where their files leave it open."""
    claimed = read_claims(b).llama_version
    return _opened(a, llama_version, claimed, assume), _opened(b, llama_version, claimed)


def _opened(
    path: Path, llama_version: str | None, claimed: str | None, assume: Mapping[str, str] | None = None
) -> Checkpoint:
    """A side, as the version that B says it was taken as, where its own files leave that open."""
    side = open_checkpoint(path, llama_version, assume)
    if llama_version is None and claimed in [version.name for version in side.versions]:
        return open_checkpoint(path, claimed, assume)
    return side


def _checked(
    a: Checkpoint, b: Checkpoint | None, levels: Sequence[str], computing: Computing
) -> Iterator[LevelResult | Diagnosis]:
    misshapen = any(structure.shape_problems(side) for side in (a, b) if side is not None)
    evidence = _Evidence()
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as pool:
        if tokenizer.NAME in levels:  # it keeps one core busy, while the other levels wait for the disk
            evidence.tokenizer = pool.submit(tokenizer.check_tokenizer, a, b)
        yield from _in_turn(a, b, levels, computing, evidence, misshapen=misshapen)
    if b is not None and evidence.failed:
        yield from _explained(a, b, evidence, misshapen=misshapen)


def _in_turn(
    a: Checkpoint,
    b: Checkpoint | None,
    levels: Sequence[str],
    computing: Computing,
    evidence: _Evidence,
    *,
    misshapen: bool,
) -> Iterator[LevelResult]:
    for name in (name for name in LEVELS if name in levels):
        if misshapen and name in _NEED_SHAPES:
            result = not_checked(name, "weights are missing or of the wrong shape")
        else:
            result = _level(name, a, b, computing, evidence)
        evidence.failed |= name in _EXPLAINED and result.verdict is Verdict.FAILED
        yield result


@dataclass(slots=True)
class _Evidence:
    """What the levels leave behind for the diagnosis. tensors: None where their level was not asked for.

    tokenizer: its level's result, which was begun before the others.
    """

    failed: bool = False
    tokenizer: Future[LevelResult] | None = None
    tensors: list[TensorResult] | None = None
    parting: Parting | None = None


def _level(name: str, a: Checkpoint, b: Checkpoint | None, computing: Computing, evidence: _Evidence) -> LevelResult:
    if name == files.NAME:
        return files.check_files(a, b)
    if name == structure.NAME:
        return structure.check_structure(a, b)
    if name == tokenizer.NAME and evidence.tokenizer is not None:
        return evidence.tokenizer.result()
    if name == tensors.NAME:
        evidence.tensors = list(tensors.compare_tensors(a, b))
        return tensors.judge_tensors(evidence.tensors, alone=b is None)
    result, evidence.parting = compare.check_logits(a, b, computing)
    return result


def _explained(a: Checkpoint, b: Checkpoint, evidence: _Evidence, *, misshapen: bool) -> Iterator[Diagnosis]:
    if misshapen:
        evidence.tensors = []
    elif evidence.tensors is None:
        evidence.tensors = list(tensors.compare_tensors(a, b))
    yield from diagnose(a, b, evidence.tensors, evidence.parting)
