"""`convert`: any checkpoint to another format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Exit, Option

from llama_convert.cli import options
from llama_convert.cli.failures import DIFFERENT
from llama_convert.cli.output import Output, gigabytes
from llama_convert.cli.plans import headline, is_exact, tell_far_plan, tell_plan, vocabulary_json
from llama_convert.cli.sources import fetched, remote
from llama_convert.cli.verifying import show_verification, take_large_pages
from llama_convert.convert.errors import counted

if TYPE_CHECKING:
    from llama_convert.convert import Conversion, Plan, Request
    from llama_convert.hub import Choice, DownloadPlan
    from llama_convert.verify import Diagnosis, LevelResult, Report

# What of a repository is converted, where that is not what a user most likely wants of it: not the same format again.
_SUITING = {"hf": ("original", "hf", "gguf")}
_FLOAT_BYTES = 2  # of an element of a published Llama


def convert(
    source: options.Source,
    target: options.Target,
    to: Annotated[
        str, Option("--to", help="Format to write: hf, meta, scratch, gguf, mlx, litgpt, torchtune, llama2c.")
    ] = "hf",
    what: options.What = None,
    llama_version: options.LlamaVersion = None,
    instruct: options.Instruct = False,
    dtype: options.DTypeName = None,
    quantize: options.Quantize = None,
    output_type: options.OutputType = None,
    embedding_type: options.EmbeddingType = None,
    format_version: options.FormatVersion = None,
    shards: options.Shards = None,
    shard_size: options.ShardSize = None,
    special_tokens: options.SpecialTokens = None,
    assume: options.Assume = None,
    overwrite: options.Overwrite = False,
    no_check: options.NoCheck = False,
    dry_run: options.DryRun = False,
    pad: options.Pad = False,
    verify: options.VerifyHub = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert a checkpoint into another format, exactly."""
    from llama_convert.cli.sizes import parse_assumptions, parse_quantised
    from llama_convert.convert import pad_change, plan_conversion
    from llama_convert.convert.formats import find_format
    from llama_convert.convert.readers import reading

    output = Output(json=json, quiet=quiet)
    request = replace(
        parse_request(dtype, shard_size, instruct, special_tokens),
        shards=shards,
        quantize=parse_quantised(quantize, "--quantize"),
        output_type=parse_quantised(output_type, "--output-type"),
        embedding_type=parse_quantised(embedding_type, "--embedding-type"),
        format_version=format_version,
    )
    assumed = parse_assumptions(assume or [])
    change = pad_change if pad else None
    planned = partial(
        plan_conversion, to=to, request=request, llama_version=llama_version, assume=assumed, change=change
    )
    find_format(to)
    found = _found(source, what, to, planned, output, needs=partial(_output_bytes, target, request))
    if dry_run:
        tell_far_plan(found, planned, output) if found else tell_plan(planned(source), output)
        return
    place = _fetched(found, target, output, overwrite=overwrite) if found else source
    with reading(place):
        done = carry_out(planned(place), target, overwrite=overwrite, check=not no_check, output=output)
        finish(done, output, verify=found is not None if verify is None else verify, assumed=assumed)


def finish(done: Conversion, output: Output, *, verify: bool, assumed: Mapping[str, str]) -> None:
    """Prove a finished conversion where that is asked for, and tell all of it; exits where it is wrong."""
    report = _proven(done, output, assumed) if verify else None
    verified = report.as_json() if report else None
    output.data({"ok": report is None or report.ok, **conversion_json(done), "verified": verified})
    if report is not None and not report.ok:
        raise Exit(DIFFERENT)


def _proven(done: Conversion, output: Output, assumed: Mapping[str, str]) -> Report:
    """The verdict, which conversion.json keeps."""
    take_large_pages()
    from llama_convert.verify import record_verdict, verify_levels, verify_resized

    source, change = done.plan.source, done.plan.source.change
    version, same = source.version.name, "the same model"
    events: Iterable[LevelResult | Diagnosis]
    if change is not None and (change.tokens or change.rows != source.rows):
        events = verify_resized(source.path, done.folder, llama_version=version, assume=assumed)
        same += " but for its vocabulary"
    else:
        events = verify_levels(source.path, done.folder, llama_version=version, assume=assumed)
    report = show_verification(source.path, done.folder, events, output, same=same)
    record_verdict(done.folder, report)
    return report


def _found(
    source: Path,
    what: str | None,
    to: str,
    planned: Callable[[Path], Plan],
    output: Output,
    needs: Callable[[Choice], Mapping[Path, int]],
) -> DownloadPlan | None:
    """What is to be fetched of a repository; what is here serves where it can be converted exactly."""
    asked = partial(remote, source, output, what=what, likeliest=_SUITING.get(to), needs=needs)
    found = asked(held_first=True)
    return asked() if found and found.instead_of and not is_exact(found, planned) else found


def _fetched(found: DownloadPlan, target: Path, output: Output, *, overwrite: bool) -> Path:
    """The source, fetched; what cannot end well is refused before."""
    from llama_convert.convert.publish import check_destination
    from llama_convert.hub.disks import check_disks

    check_disks(found.snapshot.asked, found.disks)
    check_destination(target, found.checkpoint, 0, overwrite=overwrite)
    return fetched(found, output).path


def _output_bytes(target: Path, request: Request, choice: Choice) -> dict[Path, int]:
    """What a conversion will write at the least, as far as sizes tell before anything is fetched."""
    weights = sum(entry.size for entry in choice.weights)
    kind = request.quantize
    return {target: int(weights * kind.nbytes / kind.block / _FLOAT_BYTES) if kind else weights}


def parse_request(
    dtype: str | None, shard_size: str | None, instruct: bool, special_tokens: list[str] | None
) -> Request:
    """The options that say what the output shall be."""
    from llama_convert.cli.sizes import parse_dtype, parse_size
    from llama_convert.convert import Request

    return Request(
        dtype=parse_dtype(dtype),
        shard_size=parse_size(shard_size) if shard_size else None,
        instruct=instruct,
        special_tokens=tuple(special_tokens) if special_tokens else None,
    )


def carry_out(plan: Plan, target: Path, *, overwrite: bool, check: bool, output: Output) -> Conversion:
    """Run the plan with a progress bar, and say what came of it."""
    from llama_convert.convert import convert_checkpoint

    run = partial(convert_checkpoint, plan, target, overwrite=overwrite, check=check)
    done = watched(run, plan, target, output)
    _report(done, output)
    return done


def watched(run: Callable[..., Conversion], plan: Plan, target: Path, output: Output) -> Conversion:
    """What carries out a plan, run with a progress bar; it is given `on_progress`."""
    from llama_convert.convert.publish import partial_folder

    output.say(headline(plan))
    if plan.source.change:
        output.say(plan.source.change.why)
    begun = False

    def advance(nbytes: int) -> None:
        nonlocal begun
        begun = True
        update(nbytes)

    try:
        with output.progress(plan.nbytes, target.name) as update:
            done = run(on_progress=lambda moved: advance(moved.nbytes))
    except BaseException:
        if begun:
            output.say(f"Nothing was written to {target}; the partial folder {partial_folder(target)} is removed.")
        raise
    return done


def _report(done: Conversion, output: Output) -> None:
    for found in done.unusual:
        output.say(
            f"warning: {found.name}: {found.not_finite:,} elements are NaN or infinite in the source, "
            f"{found.overflowed:,} more became infinite in the cast"
        )
    for note in done.plan.notes:
        output.say(f"note: {note}")
    checked = f"{counted(done.records_checked, 'checksum')} held" if done.records_checked else "no checksums checked"
    output.result(
        f"{done.folder}: {gigabytes(done.plan.nbytes)} in {counted(len(done.plan.files), 'weight file')}, {checked}"
    )


def conversion_json(done: Conversion) -> dict[str, Any]:
    """A finished conversion as plain data."""
    return {
        "folder": str(done.folder),
        "nbytes": done.plan.nbytes,
        "files": [file.name for file in done.plan.files],
        "records_checked": done.records_checked,
        "unusual": [
            {"tensor": found.name, "not_finite": found.not_finite, "overflowed": found.overflowed}
            for found in done.unusual
        ],
        "notes": list(done.plan.notes),
        **vocabulary_json(done.plan),
    }
