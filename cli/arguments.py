"""The command line brought into one spelling before Typer sees it.

Options may be written with `-` or `_`. A command line that starts with an option is the old conversion
script's: it goes to the command `script`, and its two peculiarities are spelled out: lists behind one
option, and switches that may be followed by True or False.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

SCRIPT = "script"
_LISTS = ("--special-tokens",)
_SWITCHES = ("--instruct", "--safe-serialization", "--push-to-hub")
_OWN = ("--help", "--version", "-h")
_TRUE, _FALSE = ("true", "1", "yes", "y", "t"), ("false", "0", "no", "n", "f")


def normalise(arguments: Sequence[str]) -> list[str]:
    """The arguments as the commands declare them."""
    spelled = [_spelling(argument) for argument in arguments]
    if spelled and spelled[0].startswith("-") and spelled[0] not in _OWN:
        return [SCRIPT, *_switches(_lists(spelled))]
    return list(_lists(spelled))


def _spelling(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _lists(arguments: Sequence[str]) -> Iterator[str]:
    """`--special-tokens A B` as `--special-tokens A --special-tokens B`."""
    option = None
    for argument in arguments:
        if argument in _LISTS:
            option = argument
        elif argument.startswith("--"):
            option = None
            yield argument
        elif option:
            yield from (option, argument)
        else:
            yield argument


def _switches(arguments: Iterator[str]) -> Iterator[str]:
    """`--instruct True` as `--instruct`, `--instruct False` as `--no-instruct`."""
    held = None
    for argument in arguments:
        if held:
            value, held = held, None
            if argument.lower() in _TRUE + _FALSE:
                yield value if argument.lower() in _TRUE else value.replace("--", "--no-", 1)
                continue
            yield value
        if argument in _SWITCHES:
            held = argument
        else:
            yield argument
    if held:
        yield held
