"""Options that several commands take together, as one parameter of each: a dataclass of options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from inspect import Parameter, signature
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer takes it: in place of a parameter that is a dataclass stand its fields, as options.

    The fields have annotations as any option of a command; those without a default are required.
    """
    declared = signature(command, eval_str=True)
    groups: dict[str, tuple[Any, list[str]]] = {
        name: (found.annotation, [option.name for option in _spelled(found)])
        for name, found in declared.parameters.items()
        if is_dataclass(found.annotation)
    }

    def run(**values: Any) -> None:
        built = {name: group(**{option: values.pop(option) for option in own}) for name, (group, own) in groups.items()}
        command(**values, **built)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    options = [option for found in declared.parameters.values() for option in _spelled(found)]
    run.__signature__ = declared.replace(parameters=options)  # type: ignore[attr-defined]
    return run


def _spelled(found: Parameter) -> Iterator[Parameter]:
    """The parameter, or those that a group stands for."""
    if not is_dataclass(found.annotation):
        yield found.replace(kind=Parameter.KEYWORD_ONLY)
        return
    annotations = get_type_hints(found.annotation, include_extras=True)
    fields: Any = found.annotation
    for field in signature(fields).parameters.values():
        yield field.replace(kind=Parameter.KEYWORD_ONLY, annotation=annotations[field.name])
