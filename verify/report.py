"""What a verification found: a verdict for each level, with its figures and every finding."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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

    figures: what was looked at and how it came out, one line. findings: every reason for a failure, one
    line each. warnings: what deserves a look though the two sides agree.
    """

    name: str
    verdict: Verdict
    figures: str
    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All levels' results. b: None where `a` was looked at alone."""

    a: Path
    b: Path | None
    levels: tuple[LevelResult, ...]

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
        levels = [asdict(level) | {"verdict": level.verdict.value} for level in self.levels]
        return {"a": str(self.a), "b": None if self.b is None else str(self.b), "ok": self.ok, "levels": levels}


def judged(name: str, figures: str, findings: tuple[str, ...], warnings: tuple[str, ...] = ()) -> LevelResult:
    """The result of a level that was checked: it failed where it found something."""
    verdict = Verdict.FAILED if findings else Verdict.PASSED
    return LevelResult(name=name, verdict=verdict, figures=figures, findings=findings, warnings=warnings)


def not_checked(name: str, why: str) -> LevelResult:
    """The result of a level that could not be checked."""
    return LevelResult(name=name, verdict=Verdict.NOT_CHECKED, figures=why)
