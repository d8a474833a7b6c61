"""`verify`: is B the same model as A; with one argument: is A sound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from llama_convert.cli import options
from llama_convert.cli.failures import DIFFERENT
from llama_convert.cli.output import Output
from llama_convert.convert.errors import UsageError

if TYPE_CHECKING:
    from llama_convert.verify import Diagnosis, LevelResult, Report

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
            help="Only these, separated by commas: structure, tensors, tokenizer, logits.",
            show_default=False,
        ),
    ] = None,
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
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove that two checkpoints are the same model, whatever their formats, or that one is sound."""
    from llama_convert.cli.sizes import parse_assumptions

    output = Output(json=json, quiet=quiet)
    levels = tuple(name.strip() for name in level.split(",")) if level else None
    if against is not None and (b is not None or levels or compute or device != "auto"):
        raise UsageError("--against takes A alone", advice="Leave B, --level, --device and --compute away.")
    report = run_verification(
        a,
        b,
        output,
        levels=levels,
        llama_version=llama_version,
        assume=parse_assumptions(assume or []),
        device=device,
        precision=compute,
        against=against,
    )
    output.data(report.as_json())
    if not report.ok:
        raise Exit(DIFFERENT)


def run_verification(
    a: Path,
    b: Path | None,
    output: Output,
    *,
    levels: tuple[str, ...] | None = None,
    llama_version: str | None = None,
    assume: Mapping[str, str] | None = None,
    device: str = "auto",
    precision: str | None = None,
    against: str | None = None,
) -> Report:
    """Run the levels, printing each as it ends, then what is wrong and the verdict; with a library, what it says."""
    from llama_convert.verify import LEVELS, verify_levels
    from llama_convert.verify.against import verify_against

    events = (
        verify_levels(
            a, b, levels or LEVELS, llama_version=llama_version, assume=assume, device=device, precision=precision
        )
        if against is None
        else verify_against(a, against, llama_version=llama_version, assume=assume)
    )
    report = _reported(events, a, b, output)
    output.result(_verdict(report))
    return report


def run_resized_verification(
    a: Path, b: Path, output: Output, *, llama_version: str | None, assume: Mapping[str, str]
) -> Report:
    """The same for a B that is A with another vocabulary."""
    from llama_convert.verify import verify_resized

    report = _reported(verify_resized(a, b, llama_version=llama_version, assume=assume), a, b, output)
    verdict = "the same model but for its vocabulary" if report.ok else "NOT THE SAME MODEL"
    output.result(f"{a} and {b}: {verdict}")
    return report


def _reported(events: Iterable[LevelResult | Diagnosis], a: Path, b: Path | None, output: Output) -> Report:
    from llama_convert.verify import LevelResult, Report

    done: list[LevelResult | Diagnosis] = []
    for event in events:
        output.result(_text(event) if isinstance(event, LevelResult) else _cause(event))
        done.append(event)
    results = tuple(event for event in done if isinstance(event, LevelResult))
    causes = tuple(event for event in done if not isinstance(event, LevelResult))
    return Report(a=a, b=b, levels=results, diagnosis=causes)


def _text(result: LevelResult) -> str:
    lines = [f"{result.name:{_WIDTH}}{result.verdict.value:13}{result.figures}"]
    lines += [f"{'':{_WIDTH}}{finding}" for finding in result.findings]
    lines += [f"{'':{_WIDTH}}warning: {warning}" for warning in result.warnings]
    return "\n".join(lines)


def _cause(found: Diagnosis) -> str:
    return f"{'why':{_WIDTH}}{found.sentence}\n{'':{_WIDTH}}{found.fix}"


def _verdict(report: Report) -> str:
    if report.b is None:
        return f"{report.a}: " + ("sound" if report.ok else "NOT SOUND")
    return f"{report.a} and {report.b}: " + ("the same model" if report.ok else "NOT THE SAME MODEL")
