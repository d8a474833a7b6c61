"""`inspect`: what a checkpoint is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llama_convert.cli import options
from llama_convert.cli.inspected import figures, tensor_table
from llama_convert.cli.output import Output, table

if TYPE_CHECKING:
    from llama_convert.verify.fingerprint import Fingerprint


def inspect(
    source: options.UnfetchedSource,
    tensors: Annotated[bool, Option("--tensors", help="List every tensor.")] = False,
    fingerprint: Annotated[
        bool,
        Option("--fingerprint", help="Digests of the weights, the same in every lossless format. Reads all of them."),
    ] = False,
    what: options.What = None,
    llama_version: options.LlamaVersion = None,
    assume: options.Assume = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a checkpoint is: version, sizes, types, memory needed."""
    from llama_convert.cli.inspecting_remote import Asked, inspect_repository
    from llama_convert.cli.sizes import parse_assumptions
    from llama_convert.cli.sources import repository_meant
    from llama_convert.convert import inspect_checkpoint

    output = Output(json=json, quiet=quiet)
    assumed = parse_assumptions(assume or [])
    if name := repository_meant(source, what):
        inspect_repository(name, output, Asked(what, tensors, fingerprint, llama_version, assumed))
        return
    found = inspect_checkpoint(source, llama_version, assumed)
    output.result(table(figures(found)))
    if tensors:
        output.result("\n" + tensor_table(found))
    taken = _fingerprint(source, llama_version, assumed, output) if fingerprint else None
    if taken:
        output.result("\n" + _fingerprint_table(taken))
    digests = {"fingerprint": _fingerprint_json(taken)} if taken else {}
    output.data({"ok": True, **found.as_json(tensors=tensors), **digests})


def _fingerprint(source: Path, llama_version: str | None, assumed: dict[str, str], output: Output) -> Fingerprint:
    from llama_convert.convert import open_checkpoint
    from llama_convert.verify.fingerprint import fingerprint

    checkpoint = open_checkpoint(source, llama_version, assumed)
    with output.progress(checkpoint.config.parameters * checkpoint.dtype.nbytes, source.name) as update:
        return fingerprint(checkpoint, update)


def _fingerprint_table(found: Fingerprint) -> str:
    rows = [("weight", "sha256"), *((str(weight), digest) for weight, digest in found.weights.items())]
    return table([*rows, ("all weights", found.model)])


def _fingerprint_json(found: Fingerprint) -> dict[str, object]:
    return {"model": found.model, "weights": {str(weight): digest for weight, digest in found.weights.items()}}
