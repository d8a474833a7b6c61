"""What a user can act on: every expected failure of a conversion, as an exception with its advice."""

from __future__ import annotations

from collections.abc import Sequence


class ConvertError(Exception):
    """An expected failure: what is wrong, where, and what to do about it.

    summary: one line, with the file and what was found against what was wanted.
    problems: every single finding, where there is more than one; printed one a line.
    advice: what to do next, one line.
    """

    def __init__(self, summary: str, *, problems: Sequence[str] = (), advice: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.problems = tuple(problems)
        self.advice = advice

    def __str__(self) -> str:
        lines = [self.summary, *(f"  {problem}" for problem in self.problems)]
        if self.advice:
            lines.append(self.advice)
        return "\n".join(lines)


class UsageError(ConvertError):
    """The request cannot be carried out as it was put."""


class CheckpointError(ConvertError):
    """The input is damaged, incomplete, or not what it claims to be."""


class ForeignError(CheckpointError):
    """The input is a model of another kind than the Llamas that are known here."""


class SpaceError(ConvertError):
    """Not enough disk or memory."""


def counted(number: int, noun: str) -> str:
    """`1 problem`, `3 problems`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
