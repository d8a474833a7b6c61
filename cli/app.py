"""The commands."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from typer import Exit, Option, Typer, echo

from llama_convert.cli.chatting import chat
from llama_convert.cli.converting import convert
from llama_convert.cli.demo import demo
from llama_convert.cli.differing import diff
from llama_convert.cli.doctor import doctor
from llama_convert.cli.downloading import download
from llama_convert.cli.generating import generate
from llama_convert.cli.importing import import_folder
from llama_convert.cli.inspecting import inspect
from llama_convert.cli.pushing import push
from llama_convert.cli.script import script
from llama_convert.cli.shelf import du, list_models, remove
from llama_convert.cli.tokens import vocab
from llama_convert.cli.verifying import verify
from llama_convert.cli.vocabulary import pad, resize

app = Typer(
    name="llama-convert",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(convert)
app.command()(verify)
app.command()(diff)
app.command()(inspect)
app.command()(generate)
app.command()(chat)
app.command()(vocab)
app.command("import")(import_folder)
app.command()(download)
app.command()(pad)
app.command()(resize)
app.command("list")(list_models)
app.command()(du)
app.command()(remove)
app.command()(doctor)
app.command()(push)
app.command()(demo)
app.command(hidden=True)(script)


def _version(asked: bool) -> None:
    if asked:
        echo(f"llama-convert {version('llama-convert')}")
        raise Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Convert Llama checkpoints between formats, and know that the result is right.

    The command line of the old conversion script works as it is:
    llama-convert --llama_version 3 --input_dir IN --output_dir OUT
    """
