"""What a format is: names for roles, a rotary order, and how to recognise and open a folder of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llama_convert.convert.architecture import LAYER_ROLES, Role, Rotary, Weight

if TYPE_CHECKING:
    from llama_convert.convert.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Format:
    """One checkpoint format, declared.

    name: as on the command line. names: a template for each role; `{layer}` stands for the layer's number.
    ignored: templates of leftovers that carry no weights; anything else unknown is an error.
    recognises: whether a folder looks like one of this format, from file names alone.
    open: the folder's checkpoint; the second argument is the Llama version the user asserts, if any.
    """

    name: str
    title: str
    rotary: Rotary
    names: Mapping[Role, str]
    ignored: tuple[str, ...] = ()
    recognises: Callable[[Path], bool] = field(repr=False)
    open: Callable[[Path, str | None], Checkpoint] = field(repr=False)

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.names.values()).items() if count > 1]
        wrong = [role for role, name in self.names.items() if ("{layer}" in name) != (role in LAYER_ROLES)]
        if set(self.names) != set(Role) or twice or wrong:
            raise AssertionError(f"format {self.name}: every role needs one name of its own: {twice} {wrong}")

    def name_of(self, weight: Weight) -> str:
        """The weight's name in this format."""
        return self.names[weight.role].format(layer=weight.layer)

    def weight_of(self, name: str) -> Weight | None:
        """The weight of that name; None for a name this format does not know."""
        for role, pattern in self._patterns:
            if match := pattern.fullmatch(name):
                return Weight(role, int(match[1]) if match.groups() else None)
        return None

    def ignores(self, name: str) -> bool:
        """Whether the name is of a leftover that carries no weights."""
        return any(_pattern(template).fullmatch(name) for template in self.ignored)

    @cached_property
    def _patterns(self) -> list[tuple[Role, re.Pattern[str]]]:
        return [(role, _pattern(template)) for role, template in self.names.items()]


def _pattern(template: str) -> re.Pattern[str]:
    # Without leading zeros: layers.01 and layers.1 would be the same weight twice.
    return re.compile(re.escape(template).replace(re.escape("{layer}"), r"(0|[1-9]\d*)"))
