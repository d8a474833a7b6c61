"""What the names in a checkpoint mean; one file per format, all of them listed here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from llama_convert.convert.checkpoint import Checkpoint
from llama_convert.convert.containers.lookalikes import LookalikeError, all_lookalikes
from llama_convert.convert.errors import CheckpointError, UsageError
from llama_convert.convert.format import Assertions, Format
from llama_convert.convert.formats.gguf import GGUF
from llama_convert.convert.formats.huggingface import HUGGING_FACE
from llama_convert.convert.formats.litgpt import LITGPT
from llama_convert.convert.formats.llama2c import LLAMA2C
from llama_convert.convert.formats.meta import META
from llama_convert.convert.formats.mlx import MLX
from llama_convert.convert.formats.scratch import SCRATCH
from llama_convert.convert.formats.torchtune import TORCHTUNE

# In the order in which they are tried: MLX's folders are Hugging Face's with a mark; the last answers for a lone .pth
# that cannot be read.
FORMATS: tuple[Format, ...] = (META, MLX, HUGGING_FACE, GGUF, LITGPT, TORCHTUNE, LLAMA2C, SCRATCH)
# Installed packages add formats of their own under this name.
_GROUP = "llama_convert.formats"


@cache
def all_formats() -> tuple[Format, ...]:
    """Every format there is: ours, and those of installed packages, which are tried first.

    Raises UsageError for an entry point that gives no format, or one with a name that is taken.
    """
    added = [(entry.name, entry.load()) for entry in entry_points(group=_GROUP)]
    taken = {form.name for form in FORMATS}
    wrong = [name for name, form in added if not isinstance(form, Format) or form.name in taken]
    if wrong:
        raise UsageError(
            f"{', '.join(wrong)}: an installed package adds this format, but it is none, or has a name that is taken",
            advice=f"Uninstall the package, or correct its entry point in {_GROUP}.",
        )
    return (*(form for _, form in added), *FORMATS)


def find_format(name: str) -> Format:
    """The format of that name; UsageError names the known ones."""
    for form in all_formats():
        if form.name == name:
            return form
    raise UsageError(f"{name}: no such format", advice=f"Known are {', '.join(form.name for form in all_formats())}.")


def open_checkpoint(
    path: Path, llama_version: str | None = None, assume: Mapping[str, str] | None = None
) -> Checkpoint:
    """The checkpoint in a folder or a file, its format recognised by its files.

    llama_version: what the user says it is; held against the files. assume: values that no file holds, by the
    names that the format gives them.
    Raises UsageError: nothing there, or assumptions that its format does not take. CheckpointError: no known
    format, or a damaged one.
    Cost: the files' indexes; weights are read only where their values decide (a tied head, norms).
    """
    if not path.exists():
        raise UsageError(f"{path}: no such folder or file", advice="Give the folder that holds the checkpoint.")
    assertions = Assertions(llama_version=llama_version, assumed=assume or {})
    for form in all_formats():
        if form.recognises(path):
            _check_assumed(form, assertions)
            return _opened(form, path, assertions)
    if found := all_lookalikes(path):
        raise found
    raise CheckpointError(
        f"{path}: no checkpoint here; known are " + ", ".join(f"{form.title} ({form.name})" for form in all_formats()),
        advice=_advice(path),
    )


def _opened(form: Format, path: Path, assertions: Assertions) -> Checkpoint:
    try:
        return form.open(path, assertions)
    except LookalikeError as error:
        raise all_lookalikes(path, error) or error from error


def _check_assumed(form: Format, assertions: Assertions) -> None:
    foreign = [name for name in assertions.assumed if name not in form.assumable]
    if foreign:
        known = (
            f"what can be assumed of it is {', '.join(form.assumable)}" if form.assumable else "its files say it all"
        )
        raise UsageError(f"--assume {', '.join(foreign)}: not for {form.title}: {known}", advice="Leave it out.")


def _advice(path: Path) -> str:
    places = [path.parent] if path.is_file() else [path / "original", *sorted(path.glob("*/"))]
    inner = [place for place in places if place.is_dir() and any(form.recognises(place) for form in all_formats())]
    return f"Did you mean {inner[0]}?" if inner else "Give the folder that holds the weights themselves."
