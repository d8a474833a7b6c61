"""A whole conversion, from a source folder to a published one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llama_convert.convert.aside import written_aside
from llama_convert.convert.certificate import certificate, write_certificate
from llama_convert.convert.errors import UsageError
from llama_convert.convert.formats import FORMATS, open_checkpoint
from llama_convert.convert.formats.format import Format
from llama_convert.convert.integrity import Checks
from llama_convert.convert.plan import Plan, Request, make_plan
from llama_convert.convert.publish import check_destination, staged
from llama_convert.convert.run import Moved, Unusual, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A finished conversion.

    records_checked: `.pth` records held against their CRC-32. unusual: tensors with NaN, infinities or
    overflows, found where a cast read their values.
    """

    folder: Path
    plan: Plan
    records_checked: int
    unusual: tuple[Unusual, ...]


def find_format(name: str) -> Format:
    """The format of that name; UsageError names the known ones."""
    for form in FORMATS:
        if form.name == name:
            return form
    raise UsageError(f"{name}: no such format", advice=f"Known are {', '.join(form.name for form in FORMATS)}.")


def plan_conversion(
    source: Path, *, to: str = "hf", request: Request | None = None, llama_version: str | None = None
) -> Plan:
    """What converting the folder would do; nothing is written.

    Raises ConvertError of every kind that its inputs can cause.
    """
    target = find_format(to)
    return make_plan(open_checkpoint(source, llama_version), target, request or Request())


def convert_checkpoint(
    plan: Plan,
    folder: Path,
    *,
    overwrite: bool = False,
    check: bool = True,
    on_progress: Callable[[Moved], None] = lambda moved: None,
) -> Conversion:
    """Carry out the plan; `folder` appears when everything in it is written, checked and synced.

    overwrite: replace an existing model folder, at the end. check: hold what is read against its checksums.
    Memory: a few blocks of rows and the tokenizer. Raises what reading and writing can raise; then nothing
    is left under the folder's name, and the partial folder is removed.
    """
    check_destination(folder, plan.source.path, plan.nbytes, overwrite=overwrite)
    with staged(folder) as partial, Checks(plan.source, enabled=check) as checks:
        unusual = _write(plan, partial, checks, on_progress)
        records = checks.finish()
        values = certificate(plan, _options(plan, check), records, partial)
        write_certificate(partial, values)
    return Conversion(folder=folder, plan=plan, records_checked=records, unusual=unusual)


def _write(plan: Plan, folder: Path, checks: Checks, on_progress: Callable[[Moved], None]) -> tuple[Unusual, ...]:
    unusual = []
    with written_aside(plan.side_files, folder):
        for event in run(plan, folder, checks):
            if isinstance(event, Moved):
                on_progress(event)
            else:
                unusual.append(event)
    order = [step.name for step in plan.steps]  # threads find them in any
    return tuple(sorted(unusual, key=lambda found: order.index(found.name)))


def _options(plan: Plan, check: bool) -> dict[str, object]:
    request = plan.request
    return {
        "to": plan.target,
        "dtype": request.dtype.label if request.dtype else None,
        "shard_size": request.shard_size,
        "instruct": request.instruct,
        "special_tokens": request.special_tokens,
        "check": check,
    }
