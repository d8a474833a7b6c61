"""`inspect organisation/name`: what a repository on the Hub holds, without downloading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from typer import Exit

from llama_convert.cli.failures import failure
from llama_convert.cli.inspected import figures, tensor_table
from llama_convert.cli.output import Output, complain, gigabytes, table
from llama_convert.cli.sources import found_on_hub
from llama_convert.convert.errors import UsageError, counted
from llama_convert.hub.errors import HubError

if TYPE_CHECKING:
    from llama_convert.convert import Inspection
    from llama_convert.hub import Choice, Found, Mount, RepositoryName

_NEEDS_BYTES = "--fingerprint reads all weights, and those of a repository are not on this machine"


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the command."""

    what: str | None
    tensors: bool
    fingerprint: bool
    llama_version: str | None
    assumed: Mapping[str, str]


def inspect_repository(name: RepositoryName, output: Output, asked: Asked) -> None:
    """Print what the checkpoint is, what fetching it would take, and what else the repository has.

    Of a gated repository that is closed to the user its files and their sizes are shown, then exits with 4.
    """
    if asked.fingerprint:
        raise UsageError(_NEEDS_BYTES, advice=f"Run: llama-convert download {name}")
    there = found_on_hub(name, asked.what)
    try:
        found = _inspected(there, asked)
    except HubError as error:
        raise _closed(error, there, output) from error
    output.result(table([*figures(found), *_terms(there)]))
    if asked.tensors:
        output.result("\n" + tensor_table(found))
    output.data({"ok": True, **found.as_json(tensors=asked.tensors), "repository": _as_json(there)})


def _inspected(there: Found, asked: Asked) -> Inspection:
    from llama_convert.convert import inspect_checkpoint
    from llama_convert.hub import laid_out

    with laid_out(there.snapshot, there.choice) as mount:
        return _as_known(inspect_checkpoint(mount.place, asked.llama_version, asked.assumed), mount)


def _as_known(found: Inspection, mount: Mount) -> Inspection:
    """The same with the repository's names for its paths."""
    tokenizer = found.tokenizer and (found.tokenizer[0], mount.known_as(found.tokenizer[1]))
    return replace(found, path=mount.known_as(found.path), tokenizer=tokenizer)


def _closed(error: HubError, there: Found, output: Output) -> Exit:
    """Show what is known of files that may not be read, and why they may not."""
    told = failure(error)
    weights = [(entry.path, gigabytes(entry.size)) for entry in there.choice.entries]
    commit = there.snapshot.commit[:12]
    output.result(table([("path", f"{there.snapshot.repository}@{commit}"), *_terms(there)]))
    output.result("\n" + table(weights))
    output.result("\nNot read: sizes, version and tensors, which are in these files.")
    complain(str(told))
    output.data({**told.as_json(), "repository": _as_json(there)})
    return Exit(told.status)


def _terms(there: Found) -> list[tuple[str, str]]:
    gated = "yes: its licence must be accepted at the Hub" if there.snapshot.gated else "no"
    licence = there.snapshot.licence or "none said"
    return [
        ("download", "all of it is in the cache; the Hub was not asked" if there.stored else _line(there.choice)),
        *(("also there", _line(other)) for other in _others(there)),
        *(() if there.stored else (("gated", gated), ("licence", licence))),
    ]


def _line(choice: Choice) -> str:
    return f"{gigabytes(choice.nbytes)} in {counted(len(choice.entries), 'file')}: --what {choice}"


def _others(there: Found) -> list[Choice]:
    from llama_convert.hub import choices

    return [other for other in choices(there.snapshot) if other.weights and other != there.choice]


def _as_json(there: Found) -> dict[str, Any]:
    snapshot, choice = there.snapshot, there.choice
    return {
        "name": snapshot.repository,
        "commit": snapshot.commit,
        "gated": None if there.stored else snapshot.gated,
        "licence": snapshot.licence,
        "what": str(choice),
        "nbytes": choice.nbytes,
        "files": [{"path": entry.path, "size": entry.size} for entry in choice.entries],
        "others": [
            {"what": str(other), "nbytes": other.nbytes, "files": len(other.entries)} for other in _others(there)
        ],
    }
