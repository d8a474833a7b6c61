"""`import`: a folder that came from elsewhere, checked once and known from then on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit

from llama_convert.cli import options
from llama_convert.cli.failures import DAMAGED
from llama_convert.cli.inspected import headline
from llama_convert.cli.output import Output, complain
from llama_convert.cli.verifying import show_verification
from llama_convert.convert.errors import UsageError, counted

if TYPE_CHECKING:
    from llama_convert.verify import Report

_LEVELS = ("files", "structure")
_NO_CHECKSUMS = "No checksums came with these files: what is recorded is what they are now."


def import_folder(
    folder: Annotated[
        Path,
        Argument(metavar="DIR", help="Folder with a checkpoint, such as Meta's download.sh makes.", show_default=False),
    ],
    llama_version: options.LlamaVersion = None,
    assume: options.Assume = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a folder that was made elsewhere, and record it: list, verify --certificate and remove know it then.

    Every checksum in it and beside it is held against its bytes. What is recorded is in conversion.json, a new
    file in the folder; nothing else is changed. A folder that is not sound is not recorded.
    """
    from llama_convert.cli.sizes import parse_assumptions
    from llama_convert.convert import open_checkpoint
    from llama_convert.convert.certificate import write_certificate
    from llama_convert.convert.claims import NAME
    from llama_convert.convert.importing import imported_certificate
    from llama_convert.verify import verify_levels

    output = Output(json=json, quiet=quiet)
    _check_place(folder)
    if (folder / NAME).exists():
        output.say(f"{folder}: has a {NAME} already; nothing is changed.")
        output.say(f"Hold it against that with: llama-convert verify --certificate {folder}")
        output.data({"ok": True, "path": str(folder), "recorded": False})
        return
    assumed = parse_assumptions(assume or [])
    checkpoint = open_checkpoint(folder, llama_version, assumed)
    output.result(headline(checkpoint))
    events = verify_levels(folder, None, _LEVELS, llama_version=llama_version, assume=assumed)
    report = show_verification(folder, None, events, output)
    if not report.ok:
        _refuse(report, output)
    values = imported_certificate(checkpoint, asserted=llama_version is not None)
    write_certificate(folder, values)
    if report.not_checked:
        output.say(_NO_CHECKSUMS)
    files, tensors = counted(len(values["target"]["files"]), "file"), counted(len(values["tensors"]), "tensor")
    output.result(f"{folder}: recorded, {files} and {tensors} in {NAME}")
    output.data({**report.as_json(), "path": str(folder), "recorded": True})


def _check_place(folder: Path) -> None:
    from llama_convert.hub.cache import cache_folder

    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", advice="Give the folder that holds the checkpoint.")
    if folder.resolve().is_relative_to(cache_folder()):
        raise UsageError(
            f"{folder}: lies in the Hugging Face cache, where only its own client writes",
            advice="Nothing need be done: list knows it.",
        )


def _refuse(report: Report, output: Output) -> None:
    """All findings are shown by now; they are the input's fault."""
    findings = [finding for level in report.levels for finding in level.findings]
    complain(f"llama-convert: {report.a}: not recorded: {counted(len(findings), 'problem')}")
    complain("Fetch the named files again.")
    output.data({**report.as_json(), "status": DAMAGED, "path": str(report.a), "recorded": False})
    raise Exit(DAMAGED)
