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


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelResult:
    """One level's result.

    figures: what was looked at and how it came out, one line. measures: the same for machines, by name.
    gate: what was judged against, where the level measures a distance. findings: every reason for a failure,
    one line each. warnings: what deserves a look though the two sides agree.
    """

    name: str
    verdict: Verdict
    figures: str
    measures: Mapping[str, float | int | str] = field(default_factory=dict)
    gate: float | None = None
    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


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
class Parting:
    """The first place where two forward passes part.

    layer: None outside the layers. operation: "embedding", "attention", "feed-forward" or "output head".
    difference: there, gate: the most that rounding explains; both in spreads of what the operation gives.
    """

    layer: int | None
    operation: str
    difference: float
    gate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All levels' results. b: None where `a` was looked at alone. diagnosis: empty unless a level failed."""

    a: Path
    b: Path | None
    levels: tuple[LevelResult, ...]
    diagnosis: tuple[Diagnosis, ...] = ()

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
            "levels": [asdict(level) | {"verdict": level.verdict.value} for level in self.levels],
            "diagnosis": [asdict(found) for found in self.diagnosis],
        }


def judged(
    name: str,
    figures: str,
    findings: tuple[str, ...],
    warnings: tuple[str, ...] = (),
    *,
    measures: Mapping[str, float | int | str] | None = None,
    gate: float | None = None,
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
    )


def not_checked(name: str, why: str) -> LevelResult:
    """The result of a level that could not be checked."""
    return LevelResult(name=name, verdict=Verdict.NOT_CHECKED, figures=why)
