"""Options that commands share: worded once, and groups of them as Typer takes them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from typer import Argument, Option, Typer
from typer.main import get_command

from llama_convert.cli.app import app
from llama_convert.cli.failures import failure
from llama_convert.cli.grouped import grouped

# Names that mean one thing in one command and another in another: a type to write or to compute in, whose seed.
MEANINGS = {"--dtype", "--to", "--seed", "--device", "--special", "--verify"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """A group with a field that must be given."""

    hue: Annotated[str, Option("--hue", help="Such as red.")]
    light: Annotated[float | None, Option("--light", min=0, max=1)] = None
    grey: Annotated[bool, Option("--grey")] = False


def paint(seen: list[Any]) -> Any:
    @grouped
    def command(
        wall: Annotated[str, Argument(metavar="WALL")],
        *,
        coats: Annotated[int, Option("--coats")] = 2,
        colour: Colour,
        quiet: Annotated[bool, Option("--quiet")] = False,
    ) -> None:
        """Paint a wall."""
        seen.append((wall, coats, colour, quiet))

    painting = Typer(add_completion=False)
    painting.command()(command)
    return get_command(painting)


def test_a_group_comes_as_one_value_and_is_listed_where_it_stands() -> None:
    seen: list[Any] = []
    command = paint(seen)
    command(["north", "--hue", "red", "--grey", "--quiet"], standalone_mode=False)
    command(["south", "--light", "0.5", "--hue", "blue", "--coats", "1"], standalone_mode=False)
    assert seen == [
        ("north", 2, Colour(hue="red", grey=True), True),
        ("south", 1, Colour(hue="blue", light=0.5), False),
    ]
    assert [option.name for option in command.params] == ["wall", "coats", "hue", "light", "grey", "quiet"]
    assert command.help == "Paint a wall."


@pytest.mark.parametrize(
    ("wrong", "name"),
    [(["north"], "hue"), (["--hue", "red"], "wall"), (["north", "--hue", "a", "--light", "2"], "light")],
)
def test_what_a_group_does_not_take_is_refused(wrong: list[str], name: str) -> None:
    seen: list[Any] = []
    with pytest.raises(Exception) as caught:  # noqa: PT011 (Typer's own, of which only leaves are public)
        paint(seen)(wrong, standalone_mode=False)
    told = failure(caught.value)
    assert (told.status, name in told.summary.lower(), seen) == (2, True, [])


def test_an_option_of_several_commands_is_worded_once() -> None:
    texts: dict[str, set[str]] = defaultdict(set)
    commands: dict[str, int] = defaultdict(int)
    for command in get_command(app).commands.values():  # type: ignore[attr-defined]
        for option in command.params:
            texts[option.opts[0]].add(getattr(option, "help", None) or "")
            commands[option.opts[0]] += option.opts[0].startswith("--")
    assert {name for name, found in texts.items() if name.startswith("--") and len(found) > 1} == MEANINGS
    assert commands["--top-k"] == 2
    assert commands["--json"] > 10
