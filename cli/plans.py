"""What a conversion will do, as it is told before it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_convert.cli import inspected
from llama_convert.cli.output import Output, gigabytes, table

if TYPE_CHECKING:
    from llama_convert.convert import Plan
    from llama_convert.hub import DownloadPlan


def tell_plan(plan: Plan, output: Output) -> None:
    """What --dry-run prints."""
    output.result(plan_text(plan))
    output.data({"ok": True, "plan": plan_json(plan)})


def tell_far_plan(download: DownloadPlan, planned: Callable[[Path], Plan], output: Output) -> None:
    """What --dry-run prints of a repository: the download of what is missing, then the plan that `planned` makes.

    Fetches headers and small files; writes nothing. Where these do not tell the plan, or may not be read, says so.
    """
    from llama_convert.cli import downloading

    plan, why = _far_plan(download, planned)
    if download.to_fetch or download.instead_of:
        output.result(f"{downloading.brief_text(download)}\n")
    else:
        output.say(downloading.brief_text(download))
    output.result(plan_text(plan) if plan else f"The plan of the conversion cannot be told before that: {why}")
    output.data({"ok": True, "download": downloading.plan_json(download), "plan": plan_json(plan) if plan else None})


def is_exact(download: DownloadPlan, planned: Callable[[Path], Plan]) -> bool:
    """Whether what is here can be converted, and holds the model's own values: no quantised ones."""
    from llama_convert.convert import ConvertError
    from llama_convert.convert.plan import is_quantised

    try:
        plan, _ = _far_plan(download, planned)
    except ConvertError:
        return False
    return plan is not None and not is_quantised(plan.source)


def _far_plan(download: DownloadPlan, planned: Callable[[Path], Plan]) -> tuple[Plan | None, str]:
    """The plan as it will be when all is here, or None and why there is none."""
    from llama_convert.convert.containers.sources import FarError
    from llama_convert.hub import Destination, laid_out

    if download.refusal is not None:
        return None, download.refusal.summary
    held = {file.entry.path: file.held for file in download.files if file.held}
    root = download.place.root
    try:
        with laid_out(download.snapshot, download.choice, Destination(root=root, held=held)) as mount:
            plan = planned(mount.place)
            return replace(plan, source=replace(plan.source, path=root / plan.source.path.relative_to(mount.root))), ""
    except FarError as error:
        return None, error.summary


def headline(plan: Plan) -> str:
    """One line: what becomes what."""
    return f"{inspected.headline(plan.source)} -> {plan.target}"


def plan_text(plan: Plan) -> str:
    """The plan as a person reads it."""
    rows = [("treatment", "tensors", "bytes")]
    rows += [(treatment, str(tensors), gigabytes(size)) for treatment, (tensors, size) in plan.work().items()]
    files = [(file.name, str(len(file.steps)), gigabytes(file.size)) for file in plan.files]
    names = ", ".join(file.name for file in plan.side_files)
    return "\n".join(
        [
            headline(plan),
            *([plan.source.change.why] if plan.source.change else []),
            "",
            table(rows),
            "",
            table([("output file", "tensors", "bytes"), *files]),
            f"and {names}",
            "",
            f"disk    {gigabytes(plan.nbytes)}",
            f"memory  {gigabytes(plan.peak_memory())} of working blocks, whatever the size of the model",
            *(f"note: {note}" for note in plan.notes),
        ]
    )


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data; sizes in bytes."""
    return {
        "source": {
            "path": str(plan.source.path),
            "format": plan.source.format.name,
            "llama_version": plan.source.version.name,
        },
        "target": plan.target,
        "work": {name: {"tensors": tensors, "nbytes": size} for name, (tensors, size) in plan.work().items()},
        "files": [
            {"name": file.name, "nbytes": file.size, "tensors": [step.name for step in file.steps]}
            for file in plan.files
        ],
        "side_files": [file.name for file in plan.side_files],
        "nbytes": plan.nbytes,
        "working_memory": plan.peak_memory(),
        "notes": list(plan.notes),
        **vocabulary_json(plan),
    }


def vocabulary_json(plan: Plan) -> dict[str, Any]:
    """What becomes of the vocabulary, where that is to change, as plain data."""
    from llama_convert.convert.conversion import vocabulary_record

    return {"vocabulary": vocabulary_record(plan.source)} if plan.source.change else {}
