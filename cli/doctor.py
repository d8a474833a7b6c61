"""`doctor`: whether this machine can do what is asked of it, and what to do where it cannot."""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit

from llama_convert.cli import options
from llama_convert.cli.failures import NO_ACCESS
from llama_convert.cli.output import Output

if TYPE_CHECKING:
    from llama_convert.hub.doctor import Check


def doctor(
    repository: Annotated[
        str | None,
        Argument(metavar="REPO", help="A repository that should be readable: organisation/name.", show_default=False),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check versions, device, disk, memory, token and the way to the Hub, and say what to do about each."""
    from llama_convert.cli.machine import machine_checks
    from llama_convert.hub.doctor import hub_checks

    output = Output(json=json)
    checks = []
    for found in chain(machine_checks(), hub_checks(repository)):
        checks.append(found)
        _show(found, output)
    well = all(found.status != "problem" for found in checks)
    output.data({"ok": well, "status": 0 if well else NO_ACCESS, "checks": [asdict(found) for found in checks]})
    if not well:
        raise Exit(NO_ACCESS)


def _show(found: Check, output: Output) -> None:
    output.result(f"{found.name:<18} {found.status:<8} {found.found}")
    if found.advice:
        output.result(f"{'':<27} {found.advice}")
