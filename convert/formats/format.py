"""What a format is: names for roles, a rotary order, and how to recognise and open a folder of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llama_convert.convert.architecture import LAYER_ROLES, Role, Rotary, Weight

if TYPE_CHECKING:
    from llama_convert.convert.checkpoint import Checkpoint
    from llama_convert.convert.expressions import Expression
    from llama_convert.convert.plan import Request, SideFile, WeightFile


@dataclass(frozen=True, slots=True)
class Writer:
    """How a format is written.

    lay_out: from (weight, name, expression) in model order and the largest file size, the weight files with
    all their offsets, and the small files that describe them.
    side_files: config, tokenizer and the like for a source and a request, and notes for the user.
    """

    lay_out: Callable[
        [Sequence[tuple[Weight, str, Expression]], int], tuple[tuple[WeightFile, ...], tuple[SideFile, ...]]
    ]
    side_files: Callable[[Checkpoint, Request], tuple[tuple[SideFile, ...], tuple[str, ...]]]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One checkpoint format, declared.

    name: as on the command line. names: a template for each role; `{layer}` stands for the layer's number.
    ignored: templates of leftovers that carry no weights; anything else unknown is an error.
    recognises: whether a folder looks like one of this format, from file names alone.
    open: the folder's checkpoint; the second argument is the Llama version the user asserts, if any.
    writer: None where the format is only read.
    """

    name: str
    title: str
    rotary: Rotary
    names: Mapping[Role, str]
    ignored: tuple[str, ...] = ()
    recognises: Callable[[Path], bool] = field(repr=False)
    open: Callable[[Path, str | None], Checkpoint] = field(repr=False)
    writer: Writer | None = field(default=None, repr=False)

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
