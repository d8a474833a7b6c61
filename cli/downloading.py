"""`download`: one checkpoint of a repository on the Hub, into the cache or a folder."""

from __future__ import annotations

import shlex
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from llama_convert.cli import options
from llama_convert.cli.output import Output, gigabytes, table
from llama_convert.convert.errors import UsageError, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_convert.hub.download import Downloaded, DownloadPlan
    from llama_convert.hub.held import PlannedFile
    from llama_convert.hub.repository import RemoteEntry

_PICKLES = (".pth", ".pt", ".bin")


def download(
    repository: Annotated[
        str,
        Argument(metavar="REPO", help="A repository on the Hub: org/name or org/name@revision.", show_default=False),
    ],
    what: options.What = None,
    to: Annotated[
        Path | None,
        Option("--to", metavar="DIR", help="A folder for plain files (default: the Hub's cache).", show_default=False),
    ] = None,
    no_xet: Annotated[bool, Option("--no-xet", help="Fetch by plain HTTP, not through Xet.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch a checkpoint from the Hub: one weight format, checked, resumed where an earlier run was cut off."""
    from llama_convert.hub import parse_name, plan_download

    output = Output(json=json, quiet=quiet)
    name = parse_name(repository)
    if name is None:
        raise UsageError(
            f"{repository}: not the name of a repository",
            advice="Give it as organisation/name or organisation/name@revision.",
        )
    plan = plan_download(name, what, to=to, progress=output.progress)
    if dry_run:
        tell_download(plan, output)
        return
    done = carry_out(plan, output, xet=not no_xet)
    snapshot = plan.snapshot
    output.result(f"{done.checkpoint}: {plan.choice} of {snapshot.repository}@{snapshot.commit}, {_came(done)}")
    following = _next_command(done)
    if following:
        output.say(f"Next: {following}")
    output.data({"ok": True, **downloaded_json(done), "next": following})


def tell_download(plan: DownloadPlan, output: Output) -> None:
    """What --dry-run prints."""
    output.result(plan_text(plan))
    output.data({"ok": True, "download": plan_json(plan)})


def carry_out(plan: DownloadPlan, output: Output, *, xet: bool = True) -> Downloaded:
    """Tell the plan, then carry it out with a progress bar."""
    from llama_convert.hub import download as fetch

    output.say(brief_text(plan))
    try:
        with output.progress(plan.to_fetch, plan.snapshot.repository) as update:
            return fetch(plan, on_bytes=update, on_note=lambda text: output.say(f"note: {text}"), xet=xet)
    except KeyboardInterrupt:
        output.say("What was fetched is kept: the same command goes on from there.")
        raise


def brief_text(plan: DownloadPlan) -> str:
    """The plan as a person reads it; one line where all is in its place, one more where another suits better."""
    placed = all(file.held == file.target for file in plan.files)
    return "\n".join([_headline(plan, "all here"), *_instead(plan)]) if placed else plan_text(plan)


def plan_text(plan: DownloadPlan) -> str:
    """The plan as a person reads it."""
    rows = [("file", "bytes", "")]
    rows += [(file.entry.path, gigabytes(file.entry.size), _state(file)) for file in plan.files]
    here = sum(file.entry.size for file in plan.files if file.held) + sum(file.arrived for file in plan.files)
    facts = [
        ("fetch", f"{gigabytes(plan.to_fetch)} of {gigabytes(plan.nbytes)}; {gigabytes(here)} are here already"),
        *[("disk", disk) for disk in _disks(plan)],
        ("access", _access(plan)),
        *[("scan", scan) for scan in _scan(plan)],
        ("to", str(plan.checkpoint)),
    ]
    left = _left(plan)
    return "\n".join(
        [
            _headline(plan, gigabytes(plan.nbytes)),
            table(rows),
            *_instead(plan),
            *([f"left alone: {left}"] if left else []),
            table(facts),
        ]
    )


def _instead(plan: DownloadPlan) -> list[str]:
    """Why it is not the checkpoint that suits best, in a line; none where it is."""
    other = plan.instead_of
    if other is None:
        return []
    return [f"{plan.choice} is used, for all of it is here; --what {other} takes that, {gigabytes(other.nbytes)}"]


def _headline(plan: DownloadPlan, size: str) -> str:
    snapshot = plan.snapshot
    renamed = f", now called {snapshot.repository}" if snapshot.repository != snapshot.asked.repository else ""
    files = counted(len(plan.files), "file")
    return f"{snapshot.asked}{renamed}: {plan.choice} at commit {snapshot.commit}, {files}, {size}"


def _state(file: PlannedFile) -> str:
    if file.held:
        return "here" if file.held == file.target else "here, in the cache"
    if file.arrived:
        return f"to fetch the rest, {gigabytes(file.to_fetch)}"
    return "to fetch: what is here is not it" if file.replaces else "to fetch"


def _disks(plan: DownloadPlan) -> list[str]:
    return [
        f"{disk.place}: {gigabytes(disk.needed)} needed, {gigabytes(disk.free)} free"
        + ("" if disk.suffices else ": NOT ENOUGH")
        for disk in plan.disks
    ]


def _access(plan: DownloadPlan) -> str:
    licence = f", licence {plan.snapshot.licence}" if plan.snapshot.licence else ""
    if plan.refusal is not None:
        return f"NONE: {plan.refusal.summary}{licence}"
    if not plan.snapshot.gated:
        return f"not gated{licence}"
    asked = any(file.held is None for file in plan.files)
    return f"gated, and the token may read it{licence}" if asked else f"gated, nothing to fetch{licence}"


def _scan(plan: DownloadPlan) -> list[str]:
    """What the Hub's scanners found in files that are pickles, which can run code where others load them.

    Nothing where it tells of no finished scan.
    """
    flagged = plan.snapshot.flagged
    if flagged is None or not any(entry.path.endswith(_PICKLES) for entry in plan.choice.weights):
        return []
    found = [f"{entry.path} ({flagged[entry.path]})" for entry in plan.choice.entries if entry.path in flagged]
    return [f"THE HUB WARNS of {', '.join(found)}" if found else "the Hub's scanners warn of none of these files"]


def _left(plan: DownloadPlan) -> str:
    """What of the repository is not taken: other checkpoints by name, and the rest."""
    from llama_convert.hub.layouts import choices

    left = {entry.path: entry for entry in plan.left}
    found: dict[str, list[RemoteEntry]] = defaultdict(list)
    for choice in choices(plan.snapshot):
        for entry in choice.weights:
            if left.pop(entry.path, None):
                found[str(choice)].append(entry)
    if left:
        found["others"] = list(left.values())
    return "; ".join(f"{name} ({_sum(entries)})" for name, entries in found.items())


def _sum(entries: Sequence[RemoteEntry]) -> str:
    return f"{counted(len(entries), 'file')}, {gigabytes(sum(entry.size for entry in entries))}"


def _came(done: Downloaded) -> str:
    files, fetched = counted(len(done.plan.files), "file"), f"{gigabytes(done.fetched)} fetched"
    return f"{files}, {fetched}{', the rest was here' if done.fetched < done.plan.nbytes else ''}, all digests held"


def _next_command(done: Downloaded) -> str | None:
    """What a user most likely does with it."""
    formats = {"hf": "gguf", "original": "hf", "gguf": "hf"}
    to = formats.get(done.plan.choice.what)
    if to is None:
        return None
    name = done.plan.snapshot.repository.rpartition("/")[2]
    return shlex.join(["llama-convert", "convert", str(done.checkpoint), f"{name}-{to}", "--to", to, "--verify"])


def plan_json(plan: DownloadPlan) -> dict[str, Any]:
    """The plan as plain data; sizes in bytes."""
    return {
        **_identity(plan),
        "files": [
            {**_entry(file.entry), "held": file.held, "arrived": file.arrived, "to_fetch": file.to_fetch}
            for file in plan.files
        ],
        "left_alone": [_entry(entry) for entry in plan.left],
        "nbytes": plan.nbytes,
        "to_fetch": plan.to_fetch,
        "disks": [
            {"place": disk.place, "needed": disk.needed, "free": disk.free, "suffices": disk.suffices}
            for disk in plan.disks
        ],
        "gated": plan.snapshot.gated,
        "licence": plan.snapshot.licence,
        "flagged": plan.snapshot.flagged,
        "instead_of": str(plan.instead_of) if plan.instead_of else None,
        "refusal": plan.refusal.summary if plan.refusal else None,
    }


def downloaded_json(done: Downloaded) -> dict[str, Any]:
    """A finished download as plain data."""
    return {
        **_identity(done.plan),
        "files": [_entry(file.entry) for file in done.plan.files],
        "fetched": done.fetched,
        "reused": done.reused,
    }


def _identity(plan: DownloadPlan) -> dict[str, Any]:
    return {
        "repository": plan.snapshot.repository,
        "commit": plan.snapshot.commit,
        "what": str(plan.choice),
        "checkpoint": plan.checkpoint,
    }


def _entry(entry: RemoteEntry) -> dict[str, Any]:
    return {"path": entry.path, "size": entry.size, "sha256": entry.sha256, "git_sha1": entry.git_sha1}
