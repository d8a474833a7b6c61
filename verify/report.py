"""What a verification found: a verdict for each level, with its figures and every finding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path


class Verdict(Enum):
    """How a level ended. NOT_CHECKED is never a silent pass: the figures say why and what would help."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


class Outcome(Enum):
    """How one part of a model came out. EQUAL: bit for bit; ROUNDED: bit for bit what rounding A gives.

    NEAR: no further away than explained. FAR: further. NOT_JUDGED: measured only. MISSING: nothing to compare.
    """

    EQUAL = "equal"
    ROUNDED = "rounded"
    NEAR = "near"
    FAR = "far"
    NOT_JUDGED = "not judged"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One part of the model as a level saw it: a weight, or a place on the way to the logits.

    name: of the weight's role, or of the operation; layer: of those in the middle.
    difference: of B from A: a weight's relative error, or the largest difference in spreads of A's values; None where
    nothing was compared. gate: the most that it may be, None where it is not judged. noise: what rounding alone
    brings, where that was measured.
    """

    name: str
    layer: int | None
    outcome: Outcome
    difference: float | None
    gate: float | None
    noise: float | None = None

    def __str__(self) -> str:
        return self.name if self.layer is None else f"{self.name} of layer {self.layer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelResult:
    """One level's result.

    figures: what was looked at and how it came out, one line. measures: the same for machines, by name.
    gate: what was judged against, where the level measures a distance. findings: every reason for a failure,
    one line each. warnings: what deserves a look though the two sides agree. details: of each part of the model,
    in the order of the forward pass, where the level compares such.
    """

    name: str
    verdict: Verdict
    figures: str
    measures: Mapping[str, float | int | str] = field(default_factory=dict)
    gate: float | None = None
    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    details: tuple[Detail, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The result in what JSON knows."""
        details = [asdict(detail) | {"outcome": detail.outcome.value} for detail in self.details]
        return asdict(self) | {"verdict": self.verdict.value, "details": details}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """A file of a side. nbytes: its size. digest: of all of it, as `said_by` has it; None where nothing does."""

    name: str
    nbytes: int
    digest: str | None
    said_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side is.

    name: without the folders above it. types: how many values are stored in each type, the commonest first.
    repository, commit: where it came from, if that is known. files: of weights, and the tokenizer.
    """

    name: str
    format: str
    llama_version: str
    parameters: int
    types: Mapping[str, int]
    repository: str | None
    commit: str | None
    files: tuple[FileFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """The first place where two forward passes are further apart than rounding explains.

    operation: "embedding", "attention", "feed-forward" or "output head"; layer: of the two in the middle.
    difference, gate: in spreads of A's values there.
    """

    operation: str
    layer: int | None
    difference: float
    gate: float

    def __str__(self) -> str:
        return self.operation if self.layer is None else f"{self.operation} of layer {self.layer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Why two checkpoints are not the same model.

    cause: its name, the same for the same mistake whatever the model. sentence: what is wrong and where.
    fix: what to do about it.
    """

    cause: str
    sentence: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All levels' results. b: None where `a` was looked at alone. diagnosis: empty unless a level failed.

    sides: what was looked at, A first; empty where only a certificate was.
    """

    a: Path
    b: Path | None
    levels: tuple[LevelResult, ...]
    diagnosis: tuple[Diagnosis, ...] = ()
    sides: tuple[Side, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no level failed and at least one could be checked."""
        verdicts = {level.verdict for level in self.levels}
        return Verdict.PASSED in verdicts and Verdict.FAILED not in verdicts

    @property
    def not_checked(self) -> tuple[LevelResult, ...]:
        """The levels on which nothing is known."""
        return tuple(level for level in self.levels if level.verdict is Verdict.NOT_CHECKED)

    def as_json(self) -> dict[str, object]:
        """The report in what JSON knows."""
        return {
            "a": str(self.a),
            "b": None if self.b is None else str(self.b),
            "ok": self.ok,
            "levels": [level.as_json() for level in self.levels],
            "diagnosis": [asdict(found) for found in self.diagnosis],
            "sides": [asdict(side) for side in self.sides],
        }


def judged(
    name: str,
    figures: str,
    findings: tuple[str, ...],
    warnings: tuple[str, ...] = (),
    *,
    measures: Mapping[str, float | int | str] | None = None,
    gate: float | None = None,
    details: tuple[Detail, ...] = (),
) -> LevelResult:
    """The result of a level that was checked: it failed where it found something."""
    return LevelResult(
        name=name,
        verdict=Verdict.FAILED if findings else Verdict.PASSED,
        figures=figures,
        measures=measures or {},
        gate=gate,
        findings=findings,
        warnings=warnings,
        details=details,
    )


def not_checked(
    name: str,
    why: str,
    *,
    measures: Mapping[str, float | int | str] | None = None,
    gate: float | None = None,
    details: tuple[Detail, ...] = (),
) -> LevelResult:
    """The result of a level that could not be checked."""
    return LevelResult(
        name=name, verdict=Verdict.NOT_CHECKED, figures=why, measures=measures or {}, gate=gate, details=details
    )
