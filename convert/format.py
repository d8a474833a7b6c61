"""What a format is: names for roles, a rotary order, and how to recognise and open a folder of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llama_convert.convert.architecture import LAYER_ROLES, Role, Rotary, Weight
from llama_convert.convert.errors import UsageError

if TYPE_CHECKING:
    from llama_convert.convert.checkpoint import Checkpoint
    from llama_convert.convert.outputs import Output, Request


class Head(Enum):
    """What a format does with an output head that is the token embedding."""

    OMITTED = "no tensor of its own"
    STORED = "a name of its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertions:
    """What the user says of the input, beyond its files.

    llama_version: held against the files. assumed: values that no file holds, by their name.
    """

    llama_version: str | None = None
    assumed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Format:
    """One checkpoint format, declared.

    name: as on the command line. names: a template for each role; `{layer}` stands for the layer's number.
    Roles that share a name are stored as one tensor, their rows one after the other in the order of `Role`.
    ignored: templates of leftovers that carry no weights; anything else unknown is an error.
    recognises: whether a folder or a file is of this format, from names and first bytes alone.
    opener: gives the checkpoint there. writer: gives the files that one becomes; None where the format is only
    read. Both are given the format itself, so that a variant of it can share them.
    options: fields of `Request`, beyond those every format has, that `writer` looks at.
    assumable: what `opener` takes of `Assertions.assumed`.
    """

    name: str
    title: str
    rotary: Rotary
    head: Head
    names: Mapping[Role, str]
    ignored: tuple[str, ...] = ()
    recognises: Callable[[Path], bool] = field(repr=False)
    opener: Callable[[Format, Path, Assertions], Checkpoint] = field(repr=False)
    writer: Callable[[Format, Checkpoint, Request], Output] | None = field(default=None, repr=False)
    options: tuple[str, ...] = ()
    assumable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [role for role, name in self.names.items() if ("{layer}" in name) != (role in LAYER_ROLES)]
        if set(self.names) != set(Role) or wrong:
            raise AssertionError(f"format {self.name}: every role needs a name that fits it: {wrong}")

    def open(self, path: Path, assertions: Assertions) -> Checkpoint:
        """The checkpoint there. Raises CheckpointError with everything that does not fit."""
        return self.opener(self, path, assertions)

    def write(self, source: Checkpoint, request: Request) -> Output:
        """What the checkpoint becomes in this format; UsageError where it is only read."""
        if self.writer is None:
            raise UsageError(f"{self.title} ({self.name}) can be read but not written", advice="Convert to hf.")
        return self.writer(self, source, request)

    def name_of(self, weight: Weight) -> str:
        """The name of the tensor that holds the weight."""
        return self.names[weight.role].format(layer=weight.layer)

    def weights_of(self, name: str) -> tuple[Weight, ...]:
        """The weights in the tensor of that name, in the order of their rows; none for an unknown name."""
        for roles, pattern in self._patterns:
            if match := pattern.fullmatch(name):
                return tuple(Weight(role, int(match[1]) if match.groups() else None) for role in roles)
        return ()

    def ignores(self, name: str) -> bool:
        """Whether the name is of a leftover that carries no weights."""
        return any(_pattern(template).fullmatch(name) for template in self.ignored)

    @cached_property
    def _patterns(self) -> list[tuple[list[Role], re.Pattern[str]]]:
        roles: dict[str, list[Role]] = {}
        for role in Role:
            roles.setdefault(self.names[role], []).append(role)
        return [(sharing, _pattern(template)) for template, sharing in roles.items()]


def _pattern(template: str) -> re.Pattern[str]:
    # Without leading zeros: layers.01 and layers.1 would be the same weight twice.
    return re.compile(re.escape(template).replace(re.escape("{layer}"), r"(0|[1-9]\d*)"))
