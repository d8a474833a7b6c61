"""Several files read, all their faults reported together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from llama_convert.convert.containers.lookalikes import LookalikeError
from llama_convert.convert.errors import CheckpointError

Result = TypeVar("Result")


def collect(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of all tasks; one CheckpointError with the faults of all that failed."""
    results: list[Result] = []
    errors: list[CheckpointError] = []
    for task in tasks:
        try:
            results.append(task())
        except CheckpointError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        kind = LookalikeError if any(isinstance(error, LookalikeError) for error in errors) else CheckpointError
        raise kind(
            f"{len(errors)} of {len(tasks)} files cannot be read",
            problems=[problem for error in errors for problem in (error.summary, *error.problems)],
            advice=errors[0].advice,
        )
    return results
