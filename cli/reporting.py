"""The page of a verification as a file: what it may be written to, and the writing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_convert.cli.output import Output
from llama_convert.convert.errors import UsageError

if TYPE_CHECKING:
    from llama_convert.cli.report_page import Made
    from llama_convert.verify import Report


def made_by(command: Sequence[str]) -> Made:
    """How the report of this command line is made, now."""
    from llama_convert.cli.report_page import Made
    from llama_convert.convert.certificate import made_now
    from llama_convert.verify import LEVELS

    now = made_now()
    return Made(tool=now["tool"], date=now["date"], command=tuple(command), levels=LEVELS)


def check_report_file(path: Path) -> None:
    """Whether a page may be written there; nothing is created. UsageError: something is there, or cannot be made.

    Asked before anything is computed: a verification may take hours.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, wanted a file for the report", advice=f"Give {path / 'report.html'}.")
    if os.path.lexists(path):
        raise UsageError(f"{path}: exists", advice="Give another name for the report, or remove the file first.")
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if not place.is_dir():
        raise UsageError(f"{place}: exists and is no folder", advice="Give another name for the report.")
    if not os.access(place, os.W_OK):
        raise UsageError(f"{place}: may not be written to", advice="Give another folder for the report.")


def write_report(path: Path, report: Report, made: Made, output: Output) -> None:
    """Write the page; nobody sees half a file."""
    from llama_convert.cli.report_page import report_page
    from llama_convert.hub.small_files import write_text

    write_text(path, report_page(report, made))
    output.say(f"The report is in {path}.")
