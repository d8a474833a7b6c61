"""`push`: a converted and verified folder, published on the Hub with its model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from llama_convert.cli import options
from llama_convert.cli.failures import DIFFERENT
from llama_convert.cli.output import Output
from llama_convert.cli.verifying import level_text, verified_text
from llama_convert.convert.errors import UsageError

if TYPE_CHECKING:
    from llama_convert.hub import Pushed

_CARD = "README.md"


def push(
    folder: Annotated[
        Path, Argument(metavar="DIR", help="Folder that convert wrote, with --verify.", show_default=False)
    ],
    repository: Annotated[
        str, Argument(metavar="REPO", help="organisation/name on the Hub; made if it is not there.", show_default=False)
    ],
    private: Annotated[bool, Option("--private", help="Only you and your organisation may see it.")] = False,
    create_pr: Annotated[
        bool, Option("--create-pr", help="As a pull request; run again, it goes into the same one.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Upload a converted folder to the Hub, once it is known to be whole and verified."""
    from llama_convert.hub import check_token, open_repository

    output = Output(json=json, quiet=quiet)
    values = _certificate(folder)
    _check_verdict(folder, values, output)
    output.say(f"{repository}: as {check_token(repository)}")
    _check_whole(folder, output)
    _upload(folder, open_repository(repository, private=private), values, create_pr, output)


def _certificate(folder: Path) -> Mapping[str, Any]:
    """The folder's conversion.json; UsageError where there is none."""
    from llama_convert.convert.json_files import read_object

    if not (folder / "conversion.json").is_file():
        raise UsageError(
            f"{folder}: there is no conversion.json in it: only what llama-convert wrote can be pushed",
            advice=f"Convert first: llama-convert convert SRC {folder} --verify.",
        )
    return read_object(folder / "conversion.json")


def _check_verdict(folder: Path, values: Mapping[str, Any], output: Output) -> None:
    """Refuse what was never verified, and what was found wrong."""
    from llama_convert.verify import read_certificate

    verified = read_certificate(folder).verified
    prove = f"llama-convert verify SRC {folder}"
    again = f"llama-convert convert SRC {folder} --to {values['target']['format']} --verify --overwrite"
    if verified is None:
        raise UsageError(f"{folder}: was never verified", advice=f"Hold it against its source: {prove}.")
    if not verified.get("ok"):
        output.result(f"{folder}: {verified_text(verified)}")
        output.say(f"Nothing is pushed. Convert it again: {again}.")
        output.data({"ok": False, "status": DIFFERENT, "folder": str(folder), "verified": verified})
        raise Exit(DIFFERENT)


def _check_whole(folder: Path, output: Output) -> None:
    """Refuse a folder that is not as it was written."""
    from llama_convert.verify import Report, check_certificate

    result = check_certificate(folder)
    output.result(level_text(result))
    report = Report(a=folder, b=None, levels=(result,))
    if not report.ok:
        output.result(f"{folder}: NOT AS IT WAS WRITTEN, nothing is pushed")
        output.data({**report.as_json(), "status": DIFFERENT})
        raise Exit(DIFFERENT)


def _upload(folder: Path, repository: str, values: Mapping[str, Any], create_pr: bool, output: Output) -> None:
    from llama_convert.hub import licence_of, model_card, push, visible_files

    files = visible_files(folder)
    own = _CARD in files
    card = {} if own else {_CARD: model_card(values, repository, files)}
    output.say(f"model card: {'the folder has its own' if own else 'written from conversion.json'}")
    if licence_of(values["source"]["llama_version"]) and "LICENSE" not in files:
        output.say("note: the licence wants its text beside the weights: put a LICENSE into the folder")
    title = f"Add {folder.resolve().name} ({values['target']['format']}) by llama-convert"
    done = push(folder, repository, extra=card, title=title, create_pr=create_pr, quiet=output.quiet)
    output.result(_told(repository, done))
    output.data({
        "ok": True,
        "repository": repository,
        "url": done.url,
        "pull_request": done.pull_request,
        "changed": done.changed,
        "card": "own" if own else "written",
        "files": sorted({*files, *card}),
    })  # fmt: skip


def _told(repository: str, done: Pushed) -> str:
    if not done.changed:
        return f"{repository}: everything is there already" + (f": {done.pull_request}" if done.pull_request else "")
    if done.pull_request:
        return f"{repository}: {'continued' if done.resumed else 'opened'} pull request {done.pull_request}"
    return f"{repository}: pushed to {done.url}"
