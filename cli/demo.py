"""`demo`: the whole way on the embedded model, small enough for any machine."""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path
from typing import Annotated

from typer import Exit, Option

from llama_convert.cli.failures import DIFFERENT
from llama_convert.cli.output import Output

# A tiny Llama 3, trained on stories about llamas; Meta's own format, two model-parallel shards.
EMBEDDED = Path(__file__).parent / "embedded"
_PROMPT = "One clear night, Luna the llama"
_LENGTH = 80  # tokens; its stories are shorter


def demo(
    target: Annotated[
        Path | None,
        Option(
            "--output", help="Keep the converted model in this folder (default: it is removed).", show_default=False
        ),
    ] = None,
) -> None:
    """Convert the embedded tiny model, prove the result, and let both sides tell a story."""
    if target is not None:
        _run(target, Output())
        return
    with tempfile.TemporaryDirectory(prefix="llama-convert-") as folder:
        _run(Path(folder) / "llama-stories-hf", Output())


def _run(target: Path, output: Output) -> None:
    from llama_convert.cli.converting import carry_out, plan_text
    from llama_convert.cli.verifying import show_verification
    from llama_convert.convert import plan_conversion
    from llama_convert.verify import verify_levels

    plan = plan_conversion(EMBEDDED)
    output.result(f"$ llama-convert convert {EMBEDDED} {target} --dry-run\n{plan_text(plan)}\n")
    output.result(f"$ llama-convert convert {EMBEDDED} {target}")
    carry_out(plan, target, overwrite=False, check=True, output=output)
    output.result(f"\n$ llama-convert verify {EMBEDDED} {target}")
    report = show_verification(EMBEDDED, target, verify_levels(EMBEDDED, target), output)
    stories = [_story(folder) for folder in (EMBEDDED, target)]
    for whose, story in zip(("Meta's files", "Hugging Face's files"), stories, strict=True):
        output.result(f"\nFrom {whose}, greedily:\n{textwrap.fill(_PROMPT + story, 100)}")
    if not report.ok or stories[0] != stories[1]:
        raise Exit(DIFFERENT)


def _story(folder: Path) -> str:
    from llama_convert.verify import load

    return load(folder, dtype="float32").generate([_PROMPT], max_new_tokens=_LENGTH)[0].text
