"""`verify`: is B the same model as A; with one argument: is A sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from llama_convert.cli import options
from llama_convert.cli.failures import DIFFERENT
from llama_convert.cli.output import Output
from llama_convert.convert.errors import UsageError

if TYPE_CHECKING:
    from llama_convert.verify import LevelResult, Report

_WIDTH = 12  # of a level's name


def verify(
    a: Annotated[Path, Argument(metavar="A", help="Folder with a checkpoint.", show_default=False)],
    b: Annotated[
        Path | None, Argument(metavar="[B]", help="Folder that should hold the same model.", show_default=False)
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
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove that two checkpoints are the same model, whatever their formats, or that one is sound."""
    from llama_convert.cli.sizes import parse_assumptions

    output = Output(json=json, quiet=quiet)
    if certificate:
        if b is not None or level is not None:
            raise UsageError("--certificate looks at one folder, and at all of it", advice="Leave out B and --level.")
        _check_certificate(a, output)
        return
    levels = tuple(name.strip() for name in level.split(",")) if level else None
    report = run_verification(a, b, llama_version, output, levels, parse_assumptions(assume or []))
    output.data(report.as_json())
    if not report.ok:
        raise Exit(DIFFERENT)


def _check_certificate(folder: Path, output: Output) -> None:
    """Print whether the folder is as it was written, and what its certificate says was verified then."""
    from llama_convert.verify import Report, check_certificate, read_certificate

    result = check_certificate(folder)
    verified = read_certificate(folder).verified
    report = Report(a=folder, b=None, levels=(result,))
    output.result(_text(result))
    output.result(f"{'verified':{_WIDTH}}{_verified(verified)}")
    output.result(f"{folder}: " + ("as it was written" if report.ok else "NOT AS IT WAS WRITTEN"))
    output.data({**report.as_json(), "verified": verified})
    if not report.ok:
        raise Exit(DIFFERENT)


def _verified(found: Mapping[str, Any] | None) -> str:
    """What a certificate says of a verification, as one line."""
    if found is None:
        return "not verified when it was written"
    levels = ", ".join(f"{level.get('name')} {level.get('verdict')}" for level in found.get("levels", ()))
    verdict = "the same model as" if found.get("ok") else "NOT THE SAME MODEL AS"
    return f"on {found.get('date')}: {verdict} {found.get('a')} ({levels})"


def run_verification(
    a: Path,
    b: Path | None,
    llama_version: str | None,
    output: Output,
    levels: tuple[str, ...] | None = None,
    assume: Mapping[str, str] | None = None,
) -> Report:
    """Run the levels, printing each as it ends, then the verdict."""
    from llama_convert.verify import LEVELS, Report, verify_levels

    done = []
    for result in verify_levels(a, b, levels=levels or tuple(LEVELS), llama_version=llama_version, assume=assume):
        output.result(_text(result))
        done.append(result)
    report = Report(a=a, b=b, levels=tuple(done))
    output.result(_verdict(report))
    return report


def _text(result: LevelResult) -> str:
    lines = [f"{result.name:{_WIDTH}}{result.verdict.value:13}{result.figures}"]
    lines += [f"{'':{_WIDTH}}{finding}" for finding in result.findings]
    lines += [f"{'':{_WIDTH}}warning: {warning}" for warning in result.warnings]
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    if report.b is None:
        return f"{report.a}: " + ("sound" if report.ok else "NOT SOUND")
    return f"{report.a} and {report.b}: " + ("the same model" if report.ok else "NOT THE SAME MODEL")
