"""`verify`: is B the same model as A; with one argument: is A sound."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Context, Exit, Option

from llama_convert.cli import options
from llama_convert.cli.failures import DIFFERENT
from llama_convert.cli.output import Output
from llama_convert.cli.reporting import check_report_file, made_by, write_report
from llama_convert.cli.sources import local
from llama_convert.convert.errors import UsageError

if TYPE_CHECKING:
    from llama_convert.verify import Diagnosis, LevelResult, Report

# Columns of the table: a level's name, its verdict, its figures.
_WIDTH, _VERDICT, _FIGURES = 12, 13, 95
# Findings of a level: what they have in common is said in the end.
_SHOWN = 10


def verify(
    context: Context,
    a: Annotated[
        Path,
        Argument(metavar="A", help="Folder or file with a checkpoint, or org/name on the Hub.", show_default=False),
    ],
    b: Annotated[
        Path | None, Argument(metavar="B", help="What should hold the same model.", show_default=False)
    ] = None,
    level: Annotated[
        str | None,
        Option(
            "--level",
            help="Only these, separated by commas: files, structure, tensors, tokenizer, logits.",
            show_default=False,
        ),
    ] = None,
    certificate: Annotated[
        bool,
        Option(
            "--certificate", help="Hold a converted folder against its own conversion.json; the source is not needed."
        ),
    ] = False,
    llama_version: options.LlamaVersion = None,
    assume: options.Assume = None,
    device: Annotated[
        str, Option("--device", help="Where logits are computed: auto, cuda (AMD's GPUs too), mps or cpu.")
    ] = "auto",
    compute: Annotated[
        str | None,
        Option(
            "--compute",
            help="float32, float64 or bfloat16 (default: float32, or float64 where that is too noisy).",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        Option(
            "--against",
            metavar="LIBRARY",
            help="Hold against ours the logits of this library on A: transformers, llms-from-scratch, llama-cpp.",
            show_default=False,
        ),
    ] = None,
    page: Annotated[
        Path | None,
        Option("--report", metavar="FILE", help="Also write the result as one HTML page, to show.", show_default=False),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove that two checkpoints are the same model, whatever their formats, or that one is sound."""
    take_large_pages()
    from llama_convert.cli.sizes import parse_assumptions
    from llama_convert.convert.readers import reading
    from llama_convert.verify import LEVELS, read_sides, verify_levels
    from llama_convert.verify.against import verify_against

    output = Output(json=json, quiet=quiet)
    chosen = b is not None or level is not None or compute is not None or device != "auto"
    if (certificate or against) and (chosen or (certificate and (against or page))):
        option = "--certificate" if certificate else "--against"
        raise UsageError(f"{option} takes A alone", advice="Leave B and the other options away.")
    if page is not None:
        check_report_file(page)
    a, b = local(a, output).path, local(b, output).path if b is not None else None
    if certificate:
        _check_certificate(a, output)
        return
    assumed = parse_assumptions(assume or [])
    if against is not None:
        events = verify_against(a, against, llama_version=llama_version, assume=assumed)
    else:
        levels = tuple(name.strip() for name in level.split(",")) if level else LEVELS
        events = verify_levels(
            a, b, levels, llama_version=llama_version, assume=assumed, device=device, precision=compute
        )
    with reading(a, b or a):
        sides, made = read_sides(a, b, llama_version=llama_version, assume=assumed), made_by(context.obj)
        report = replace(show_verification(a, b, events, output), sides=sides)
    if b is not None and level is None:
        _record(a, b, report, output)
    if page is not None:
        write_report(page, report, made, output)
    output.data({**report.as_json(), **made.as_json()})
    if not report.ok:
        raise Exit(DIFFERENT)


def _record(a: Path, b: Path, report: Report, output: Output) -> None:
    """A verdict on all levels goes into the certificate of a folder that was made of A, as convert --verify has it."""
    from llama_convert.verify import made_of, record_verdict

    if made_of(b, a) and os.access(b, os.W_OK):
        record_verdict(b, report)
        output.say(f"The verdict is kept in {b / 'conversion.json'}.")


def take_large_pages() -> None:
    """Have torch take its memory in large pages, where Linux has them: an eighth of the time of a verification.

    torch looks for this once, when it first takes memory, so it must be said before torch is imported.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _check_certificate(folder: Path, output: Output) -> None:
    """Print whether the folder is as it was written, and what its certificate says was verified then."""
    from llama_convert.verify import Report, check_certificate, read_certificate

    result = check_certificate(folder)
    verified = read_certificate(folder).verified
    report = Report(a=folder, b=None, levels=(result,))
    output.result(level_text(result))
    output.result(f"{'verified':{_WIDTH}}{verified_text(verified)}")
    output.result(f"{folder}: " + ("as it was written" if report.ok else "NOT AS IT WAS WRITTEN"))
    output.data({**report.as_json(), "verified": verified})
    if not report.ok:
        raise Exit(DIFFERENT)


def verified_text(found: Mapping[str, Any] | None) -> str:
    """What a certificate says of a verification, as one line."""
    if found is None:
        return "not verified when it was written"
    levels = ", ".join(f"{level.get('name')} {level.get('verdict')}" for level in found.get("levels", ()))
    verdict = "the same model as" if found.get("ok") else "NOT THE SAME MODEL AS"
    return f"on {found.get('date')}: {verdict} {found.get('a')} ({levels})"


def show_verification(
    a: Path,
    b: Path | None,
    events: Iterable[LevelResult | Diagnosis],
    output: Output,
    *,
    same: str = "the same model",
) -> Report:
    """Print each level's result as it comes, then what is wrong and the verdict. same: what two equal sides are."""
    from llama_convert.verify import LevelResult, Report

    levels: list[LevelResult] = []
    causes: list[Diagnosis] = []
    for event in events:
        if isinstance(event, LevelResult):
            output.result(level_text(event))
            levels.append(event)
        else:
            output.result(_cause(event))
            causes.append(event)
    report = Report(a=a, b=b, levels=tuple(levels), diagnosis=tuple(causes))
    output.result(_verdict(report, same))
    return report


def level_text(result: LevelResult) -> str:
    first, *more = wrap(result.figures, _FIGURES, break_long_words=False, break_on_hyphens=False) or [""]
    lines = [f"{result.name:{_WIDTH}}{result.verdict.value:{_VERDICT}}{first}"]
    lines += [" " * (_WIDTH + _VERDICT) + line for line in more]
    lines += [f"{'':{_WIDTH}}{finding}" for finding in result.findings[:_SHOWN]]
    if len(result.findings) > _SHOWN:
        lines.append(f"{'':{_WIDTH}}and {len(result.findings) - _SHOWN} more; --json has all")
    lines += [f"{'':{_WIDTH}}warning: {warning}" for warning in result.warnings]
    return "\n".join(lines)


def _cause(found: Diagnosis) -> str:
    return f"{'why':{_WIDTH}}{found.sentence}\n{'':{_WIDTH}}{found.fix}"


def _verdict(report: Report, same: str) -> str:
    if report.b is None:
        return f"{report.a}: " + ("sound" if report.ok else "NOT SOUND")
    return f"{report.a} and {report.b}: " + (same if report.ok else "NOT THE SAME MODEL")
