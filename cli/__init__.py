"""The command line: `llama-convert`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    # A polite kill cleans up as an interruption does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run([argument for argument in given if argument != "--debug"])
    except BaseException as error:
        if debug:
            raise
        return _tell(error, as_json="--json" in given)


def _run(arguments: list[str]) -> int:
    from llama_convert.cli.app import app
    from llama_convert.cli.arguments import normalise
    from llama_convert.cli.failures import INTERRUPTED, WRONG_USAGE

    name = "llama-convert"
    told = normalise(arguments) or ["--help"]
    status = app(told, standalone_mode=False, prog_name=name, obj=[name, *arguments])
    if status == INTERRUPTED:  # newer versions of Typer swallow the interruption itself
        raise KeyboardInterrupt
    return (status if isinstance(status, int) else 0) if arguments else WRONG_USAGE


def _tell(error: BaseException, *, as_json: bool) -> int:
    from llama_convert.cli.failures import failure
    from llama_convert.cli.output import Output, complain

    told = failure(error)
    complain(str(told))
    Output(json=as_json).data(told.as_json())
    return told.status
