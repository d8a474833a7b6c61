"""`diff`: what is different between two checkpoints, and by how much."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit

from llama_convert.cli import options
from llama_convert.cli.failures import DIFFERENT
from llama_convert.cli.output import Output, table
from llama_convert.convert.errors import counted

if TYPE_CHECKING:
    from llama_convert.verify.differences import Differences
    from llama_convert.verify.tensors import TensorResult


def diff(
    a: Annotated[Path, Argument(metavar="A", help="Folder or file with a checkpoint.", show_default=False)],
    b: Annotated[Path, Argument(metavar="B", help="Folder or file with another.", show_default=False)],
    llama_version: options.LlamaVersion = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the weights, config values and tokens that differ between two checkpoints of any formats."""
    from llama_convert.verify.differences import differences

    output = Output(json=json, quiet=quiet)
    found = differences(a, b, llama_version)
    output.result(_text(found))
    output.data({"ok": found.none, **_json(found)})
    if not found.none:
        raise Exit(DIFFERENT)


def _text(found: Differences) -> str:
    if found.none:
        return f"no difference: {counted(found.compared, 'weight')}, config and tokenizer"
    parts = [_section("config", found.config), _weights(found), _section("tokenizer", found.tokenizer)]
    return "\n\n".join(part for part in parts if part)


def _section(title: str, lines: tuple[str, ...]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""


def _weights(found: Differences) -> str:
    if not found.weights:
        return ""
    rows = [("weight", "values that differ", "largest difference", "first")]
    rows += [(str(result.weight), *_cells(result)) for result in found.weights]
    return f"{len(found.weights)} of {counted(found.compared, 'weight')} differ\n{table(rows)}"


def _cells(result: TensorResult) -> tuple[str, str, str]:
    found = result.difference
    if found is None:
        return result.problem or "", "", ""
    return f"{found.count:,} of {result.elements:,}", f"{found.largest:.3g}", found.place


def _json(found: Differences) -> dict[str, Any]:
    return {
        "config": list(found.config),
        "weights": {
            str(result.weight): {
                "elements": result.elements,
                "differ": result.difference.count if result.difference else None,
                "largest": result.difference.largest if result.difference else None,
                "problem": result.problem,
            }
            for result in found.weights
        },
        "compared": found.compared,
        "tokenizer": list(found.tokenizer),
    }
