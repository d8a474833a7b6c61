"""A whole conversion, from a source folder to a published one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from llama_convert.convert.aside import write_side_files, written_aside
from llama_convert.convert.certificate import certificate, write_certificate
from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.slices import DType
from llama_convert.convert.formats import find_format, open_checkpoint
from llama_convert.convert.integrity import Checks
from llama_convert.convert.origin import Origin
from llama_convert.convert.outputs import Request
from llama_convert.convert.plan import Plan, make_plan
from llama_convert.convert.publish import check_destination, staged
from llama_convert.convert.resizing import with_change
from llama_convert.convert.run import Moved, Unusual, Written, run
from llama_convert.convert.tokens import Tokens, open_tokens
from llama_convert.convert.vocabulary import Change, Init, NewRows


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


def plan_conversion(
    source: Path,
    *,
    to: str | None = "hf",
    request: Request | None = None,
    llama_version: str | None = None,
    assume: Mapping[str, str] | None = None,
    change: Callable[[Checkpoint, Tokens], Change] | None = None,
) -> Plan:
    """What converting the checkpoint would do; nothing is written.

    to: a format's name; None keeps the source's own. change: what is to become of the vocabulary, chosen from the
    opened source and its tokenizer, such as `partial(pad_change, token="<pad>")`.
    Raises ConvertError of every kind that its inputs can cause.
    """
    target, request = find_format(to) if to else None, request or Request()
    opened = open_checkpoint(source, llama_version, assume)
    if change:
        # What the files say of their tokens counts here, whatever chat format is to be written.
        tokens = open_tokens(opened, replace(request, instruct=False))
        opened = with_change(opened, change(opened, tokens), request)
    return make_plan(opened, target or opened.format, request)


def convert_checkpoint(
    plan: Plan,
    folder: Path,
    *,
    overwrite: bool = False,
    check: bool = True,
    origin: Origin | None = None,
    on_progress: Callable[[Moved], None] = lambda moved: None,
) -> Conversion:
    """Carry out the plan; `folder` appears when everything in it is written, checked and synced.

    overwrite: replace an existing model folder, at the end. check: hold what is read against its checksums.
    origin: the repository that the source was fetched from, for conversion.json; None for what its own files say.
    Memory: a few blocks of rows and the tokenizer. Raises what reading and writing can raise; then nothing
    is left under the folder's name, and the partial folder is removed.
    """
    check_destination(folder, plan.source.folder, plan.nbytes, overwrite=overwrite)
    with staged(folder) as partial, Checks(plan.source, enabled=check) as checks:
        unusual, crc32s = write_files(plan, partial, checks, on_progress)
        records = checks.finish()
        values = certificate(plan, options_record(plan, check), records, crc32s, partial, origin=origin)
        write_certificate(partial, values)
    return Conversion(folder=folder, plan=plan, records_checked=records, unusual=unusual)


def write_files(
    plan: Plan, folder: Path, checks: Checks, on_progress: Callable[[Moved], None]
) -> tuple[tuple[Unusual, ...], dict[tuple[int, int], int]]:
    """All files of the plan written into a folder that is not yet published.

    Gives what was unusual in their tensors, and the CRC-32 of each by the numbers of its file and step.
    """
    unusual, crc32s = [], {}
    with written_aside([file for file in plan.side_files if not file.late], folder):
        for event in run(plan, folder, checks):
            if isinstance(event, Moved):
                on_progress(event)
            elif isinstance(event, Written):
                crc32s[event.file, event.step] = event.crc32
            else:
                unusual.append(event)
    if not checks.damaged:
        write_side_files([file for file in plan.side_files if file.late], folder)
    order = [step.name for step in plan.steps]  # threads find them in any
    return tuple(sorted(unusual, key=lambda found: order.index(found.name))), crc32s


def options_record(plan: Plan, check: bool) -> dict[str, object]:
    """What was asked for, as conversion.json holds it."""
    request = plan.request
    return {
        "to": plan.target,
        **{field.name: _plain(getattr(request, field.name)) for field in fields(request)},
        "check": check,
        **({"made_rows": _made_rows(plan.source)} if plan.source.change else {}),
    }


def vocabulary_record(source: Checkpoint) -> dict[str, object]:
    """What becomes of the vocabulary of a source with a change, as plain data."""
    change = source.change
    assert change is not None  # asked for of such sources alone
    return {
        "rows_before": source.rows,
        "rows": change.rows,
        "tokens": [asdict(token) for token in change.tokens],
        "pad": change.pad,
        "made_rows": _made_rows(source),
        "why": change.why,
    }


def _made_rows(source: Checkpoint) -> dict[str, object] | None:
    """What new rows are; None where there are none."""
    change = source.change
    if change is None or change.rows <= source.rows:
        return None
    return {"from": source.rows, "embedding": _made(change.embedding), "head": _made(change.head)}


def _made(new: NewRows) -> dict[str, object]:
    return {
        "init": new.init.value,
        **({"row": new.source} if new.init is Init.COPY else {}),
        **({"seed": new.seed} if new.init is Init.NORMAL else {}),
    }


def _plain(value: object) -> object:
    return value.label if isinstance(value, DType) else value
