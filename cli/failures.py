"""Errors as users see them: one table from type to exit status, one line what is wrong, one what to do."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Any

from typer import Abort, BadParameter

from llama_convert.cli.arguments import SCRIPT
from llama_convert.convert.errors import CheckpointError, ConvertError, SpaceError, UsageError
from llama_convert.hub.errors import HubError

DONE, DIFFERENT, WRONG_USAGE, DAMAGED, NO_ACCESS, NO_SPACE, BUG, INTERRUPTED = 0, 1, 2, 3, 4, 5, 70, 130

# Typer shows only leaves of its usage errors; these are their branch and their root.
_CommandError: type[Exception] = BadParameter.__bases__[0]
_CommandLineError: type[Exception] = _CommandError.__bases__[0]

# The most specific type first.
_STATUSES: tuple[tuple[type[BaseException], int], ...] = (
    (UsageError, WRONG_USAGE),
    (CheckpointError, DAMAGED),
    (SpaceError, NO_SPACE),
    (HubError, NO_ACCESS),
    (ConvertError, DAMAGED),
    (_CommandLineError, WRONG_USAGE),
    (KeyboardInterrupt, INTERRUPTED),
    (Abort, INTERRUPTED),
    (MemoryError, NO_SPACE),
    (OSError, WRONG_USAGE),
    (BaseException, BUG),
)
_SCRIPT_ADVICE = (
    "See llama-convert --help; the old script's form is llama-convert --input_dir IN --output_dir OUT [options]."
)
_OS_STATUSES = {errno.ENOSPC: NO_SPACE, errno.EDQUOT: NO_SPACE, errno.EIO: DAMAGED}


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed command: what it prints and the status it exits with."""

    status: int
    summary: str
    problems: tuple[str, ...] = field(default=())
    advice: str = ""

    def __str__(self) -> str:
        lines = [f"llama-convert: {self.summary}", *(f"  {problem}" for problem in self.problems)]
        return "\n".join(lines + ([self.advice] if self.advice else []))

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "ok": False,
            "status": self.status,
            "error": self.summary,
            "problems": list(self.problems),
            "advice": self.advice,
        }


def failure(error: BaseException) -> Failure:
    """How the error is shown, and the exit status it stands for."""
    status = next(status for kind, status in _STATUSES if isinstance(error, kind))
    if isinstance(error, (ConvertError, HubError)):
        return Failure(status, error.summary, error.problems, error.advice)
    if isinstance(error, _CommandLineError):
        return _usage_failure(error)
    if status == INTERRUPTED:
        return Failure(status, "interrupted")
    if isinstance(error, MemoryError):
        return Failure(status, "out of memory", advice="Close other programs, or use a machine with more.")
    if isinstance(error, OSError):
        status = _OS_STATUSES.get(error.errno or 0, status)
        return Failure(status, _os_text(error), advice="Check the path, its permissions and its disk.")
    return Failure(
        status,
        f"internal error: {type(error).__name__}: {error}",
        advice="This is a fault of llama-convert: please report it with the output of the same command and --debug.",
    )


def _usage_failure(error: Exception) -> Failure:
    """What Typer says of a command line, with the command whose --help explains it."""
    context = getattr(error, "ctx", None)
    command = context.command_path.removesuffix(f" {SCRIPT}") if context else "llama-convert"
    text = error.format_message()  # type: ignore[attr-defined]  # every error of Typer's has it
    advice = f"See {command} --help." if command != "llama-convert" else _SCRIPT_ADVICE
    return Failure(WRONG_USAGE, text, advice=advice)


def _os_text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
