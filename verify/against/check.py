"""The check: a library by its name runs a checkpoint's files, and every answer is held against our own logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.errors import ConvertError, UsageError
from llama_convert.convert.formats import open_checkpoint
from llama_convert.verify import structure
from llama_convert.verify.against.causes import diagnose
from llama_convert.verify.against.gaps import CEILING, Gap, Yardstick, gap, true_logits, yardsticks
from llama_convert.verify.against.library import Answer, Library
from llama_convert.verify.against.llama_cpp import LLAMA_CPP
from llama_convert.verify.against.scratch import SCRATCH
from llama_convert.verify.against.transformers import TRANSFORMERS
from llama_convert.verify.prompts import Prompt, prompts
from llama_convert.verify.report import Diagnosis, LevelResult, judged, not_checked

NAME = "against"
LIBRARIES = {library.name: library for library in (TRANSFORMERS, SCRATCH, LLAMA_CPP)}
_LONGEST_MESSAGE = 300  # characters of what a library says: some list every weight


class _Refused(Exception):
    """A library does not run these files; the message is its own, in one line."""


def verify_against(
    path: Path, name: str, *, llama_version: str | None = None, assume: Mapping[str, str] | None = None
) -> Iterator[LevelResult | Diagnosis]:
    """Whether the library makes of the files there what we make of them: the structure level, this one, and why not.

    llama_version, assume: as in `verify`. Raises UsageError as `check_against` does, before anything is computed.
    """
    library = _library(name)
    a = open_checkpoint(path, llama_version, assume)
    library.fit(a)
    library.require()
    return _checked(a, name)


def _checked(a: Checkpoint, name: str) -> Iterator[LevelResult | Diagnosis]:
    yield structure.check_structure(a, None)
    if structure.shape_problems(a):
        yield not_checked(NAME, "weights are missing or of the wrong shape")
        return
    result, causes = check_against(a, name)
    yield result
    yield from causes


def check_against(a: Checkpoint, name: str) -> tuple[LevelResult, tuple[Diagnosis, ...]]:
    """Whether the library of that name computes what we compute from the same files; if not, why, where known.

    Raises UsageError: no such library, not installed, or it does not read such files.
    Cost: the library's own, which may be the whole model in float32; ours, every weight read twice.
    """
    library = _library(name)
    library.fit(a)
    version = library.require()
    called = f"{library.name} {version}"
    wanted = library.askable(prompts(a))
    try:
        answers = _asked(library, a, wanted)
    except _Refused as refusal:
        asked = {"library": library.name, "version": version}
        return judged(NAME, f"{called} refuses the files", (f"{called}: {refusal}",), measures=asked), ()
    truth = true_logits(a, wanted)
    if rows := _other_rows(a, answers):
        return judged(NAME, f"{called}: no logits to compare", (rows,)), ()
    sticks = yardsticks(library, a, wanted, truth)
    pairs = zip(wanted, answers, truth, strict=True)
    gaps = [gap(*one, log_probabilities=library.log_probabilities) for one in pairs]
    result = _judged(library, version, gaps, sticks)
    failed = not all(stick.times(found) <= 1 for stick, found in zip(sticks, gaps, strict=True))
    return result, diagnose(a, library, called, wanted, answers, sticks) if failed else ()


def _library(name: str) -> Library:
    if name not in LIBRARIES:
        raise UsageError(f"No library is called {name!r} here", advice=f"Libraries are {', '.join(LIBRARIES)}.")
    return LIBRARIES[name]


def _asked(library: Library, a: Checkpoint, wanted: Sequence[Prompt]) -> list[Answer]:
    try:
        return list(library.answers(a, wanted))
    except (ConvertError, MemoryError):
        raise
    except ImportError as error:
        raise UsageError(f"{library.name} cannot run: {_said(error)}", advice=f"Try {library.install}.") from error
    except Exception as error:  # what a library raises on files that it cannot run is anything
        raise _Refused(_said(error)) from error


def _said(error: Exception) -> str:
    words = " ".join(str(error).split())
    words = f"{type(error).__name__}: {words}" if isinstance(error, (KeyError, IndexError)) else words
    words = words or type(error).__name__
    return words if len(words) <= _LONGEST_MESSAGE else f"{words[:_LONGEST_MESSAGE]}..."


def _other_rows(a: Checkpoint, answers: Sequence[Answer]) -> str | None:
    found = {answer.scores.shape[1] for answer in answers} - {a.config.vocab_size}
    return f"{found.pop()} rows of the vocabulary against our {a.config.vocab_size}" if found else None


def _judged(library: Library, version: str, gaps: Sequence[Gap], sticks: Sequence[Yardstick]) -> LevelResult:
    stick, worst = max(zip(sticks, gaps, strict=True), key=lambda pair: pair[0].times(pair[1]))
    places, lowest = sum(found.places for found in gaps), min(stick.gate for stick in sticks)
    same = sum(found.same_first * found.places for found in gaps) / places
    divergence = max(found.divergence for found in gaps)
    figures = (
        f"{library.name} {version} at {places} places of {len(gaps)} prompts: {_figures(stick, worst)}; "
        f"same first token {same:.1%}"
    )
    measures: dict[str, float | int | str] = {
        "library": library.name,
        "version": version,
        "positions": places,
        "prompt": worst.prompt,
        "judged": "difference" if stick.exact else "divergence",
        "difference": worst.difference,
        "noise": stick.noise,
        "divergence": divergence,
        "same_first": same,
        "spread": worst.spread,
    }
    failed = not stick.times(worst) <= 1
    if not failed and stick.exact and not lowest <= CEILING:
        why = f"{figures}; a gate above {CEILING:g} proves nothing, and {library.name} computes in float32 only"
        return not_checked(NAME, why, measures=measures, gate=stick.gate)
    findings = (_finding(library, stick, worst),) if failed else ()
    return judged(NAME, figures, findings, _warnings(library, stick), measures=measures, gate=stick.gate)


def _warnings(library: Library, stick: Yardstick) -> tuple[str, ...]:
    if stick.exact:
        return ()
    return (
        f"{library.name}'s rounding in these types hides small mistakes, such as another norm_eps or a lost scaling: "
        "a file in float32 is judged strictly",
    )


def _figures(stick: Yardstick, worst: Gap) -> str:
    if stick.exact:
        return (
            f"difference {worst.difference:.1e} ({worst.prompt}), gate {stick.gate:.1e}, noise {stick.noise:.1e}; "
            f"divergence {worst.divergence:.1e}"
        )
    return (
        f"divergence {worst.divergence:.1e} ({worst.prompt}), gate {stick.gate:.1e}; difference {worst.difference:.2g} "
        "not judged, as it computes these types in fewer bits"
    )


def _finding(library: Library, stick: Yardstick, worst: Gap) -> str:
    if stick.exact:
        return (
            f"{library.name}'s logits differ from ours by {worst.difference:.3g} of their spread, "
            f"rounding explains {stick.gate:.1g}"
        )
    return (
        f"{library.name}'s probabilities are {worst.divergence:.3g} nats from ours, "
        f"its rounding explains {stick.gate:.1g}"
    )
