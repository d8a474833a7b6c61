"""`diff`: what is different between two checkpoints, and by how much."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit

from llama_convert.cli import options
from llama_convert.cli.failures import DIFFERENT
from llama_convert.cli.output import Output, table
from llama_convert.cli.sources import local
from llama_convert.convert.errors import counted

if TYPE_CHECKING:
    from llama_convert.verify.differences import Differences
    from llama_convert.verify.tensors import TensorResult


def diff(
    a: Annotated[Path, Argument(metavar="A", help="Folder, file or org/name on the Hub.", show_default=False)],
    b: Annotated[Path, Argument(metavar="B", help="Another.", show_default=False)],
    llama_version: options.LlamaVersion = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the weights, config values and tokens that differ between two checkpoints of any formats."""
    from llama_convert.convert.readers import reading
    from llama_convert.verify.differences import differences

    output = Output(json=json, quiet=quiet)
    places = local(a, output).path, local(b, output).path
    with reading(*places):
        found = differences(*places, llama_version)
    output.result(_text(found))
    output.data({"ok": found.none, **_json(found)})
    if not found.none:
        raise Exit(DIFFERENT)


def _text(found: Differences) -> str:
    if found.none:
        return f"no difference: {counted(found.compared, 'weight')}, config and tokenizer\n{_explained(found)}".rstrip()
    parts = [
        _section("config", found.config),
        _weights(found),
        _explained(found),
        _section("tokenizer", found.tokenizer),
    ]
    return "\n\n".join(part for part in parts if part)


def _explained(found: Differences) -> str:
    if not found.explained:
        return ""
    worst = max(found.explained, key=lambda result: result.ratio)
    return (
        f"{counted(len(found.explained), 'weight')} no further away than quantisation explains: "
        f"relative error up to {worst.relative_error:.2g}, {worst.type} explains {worst.allowed:.2g}"
    )


def _section(title: str, lines: tuple[str, ...]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""


def _weights(found: Differences) -> str:
    if not found.weights:
        return ""
    rows = [("weight", "values that differ", "largest difference", "relative error", "first")]
    rows += [(str(result.weight), *_cells(result)) for result in found.weights]
    return f"{len(found.weights)} of {counted(found.compared, 'weight')} differ\n{table(rows)}"


def _cells(result: TensorResult) -> tuple[str, str, str, str]:
    if result.relative_error is None:
        return result.problem or "", "", "", ""
    found, error = result.difference, f"{result.relative_error:.3g}"
    if found is None:
        return f"more than {result.type} explains", "", f"{error} of {result.allowed:.2g}", result.place
    return f"{found.count:,} of {result.elements:,}", f"{found.largest:.3g}", error, found.place


def _json(found: Differences) -> dict[str, Any]:
    return {
        "config": list(found.config),
        "weights": {
            str(result.weight): {
                "elements": result.elements,
                "differ": result.difference.count if result.difference else None,
                "largest": result.difference.largest if result.difference else None,
                "relative_error": result.relative_error,
                "allowed_error": result.allowed,
                "stray_rows": result.strays,
                "problem": result.problem,
            }
            for result in found.weights
        },
        "explained": {
            str(result.weight): {"relative_error": result.relative_error, "allowed_error": result.allowed}
            for result in found.explained
        },
        "compared": found.compared,
        "tokenizer": list(found.tokenizer),
    }
