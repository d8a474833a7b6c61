"""Chat templates run as transformers runs them, and shut in: a template is a program that a stranger wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from llama_convert.convert.errors import ConvertError
from llama_convert.verify.tokenizer_judges import MissingLibrary

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.nodes import Node
    from jinja2.parser import Parser

    from llama_convert.verify.chat_formats import Conversation

Render = Callable[["Conversation"], str]


class _Declined(Exception):
    """A template's own exception."""


def _told(reason: str) -> str:
    return f"(declined: {reason})"


class TemplateRefused(ConvertError):
    """A template that cannot be run, or that does what it may not."""


def renderer(template: str, begin: str, end: str, declined: Callable[[str], str] = _told) -> Render:
    """The template as a function of a conversation.

    begin, end: texts of the tokens that templates call bos_token and eos_token. declined: what a conversation is
    rendered to that the template declines by `raise_exception`, given its reason.
    Raises TemplateRefused, as does the function: no template, an error while it runs, or reaching for what is
    none of its business. MissingLibrary: jinja2 is not installed.
    """
    compiled = _guarded(lambda: _environment().from_string(template))

    def render(conversation: Conversation) -> str:
        values = {
            "messages": [dict(message) for message in conversation.messages],
            "bos_token": begin,
            "eos_token": end,
            "add_generation_prompt": conversation.prompt,
            "tools": None,
            "documents": None,
        }
        try:
            text: str = _guarded(lambda: compiled.render(**values))
        except _Declined as error:
            return declined(str(error))
        return text

    return render


def _guarded(run: Callable[[], Any]) -> Any:
    """What stops a template, in one line."""
    try:
        from jinja2 import TemplateError
    except ImportError as error:
        raise MissingLibrary("jinja2 is not installed", advice="pip install jinja2") from error
    stopping = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
    try:
        return run()
    except stopping as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TemplateRefused(reason[:200], advice="Replace the template.") from error


def _environment() -> Environment:
    """As transformers sets it up (utils/chat_template_utils.py), but that unsafe attributes raise, not vanish."""
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Shut(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
            raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} is unsafe")

    class Generation(Extension):
        """{% generation %}, which marks the model's own words for training and prints what is inside."""

        tags = {"generation"}  # noqa: RUF012 (jinja2's own type)

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    def raise_exception(message: str) -> NoReturn:
        raise _Declined(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = Shut(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def first_difference(wanted: str, found: str, *, before: int = 20, after: int = 40) -> str:
    """Both texts around the first character that differs."""
    pairs: Sequence[tuple[str, str]] = list(zip(wanted, found, strict=False))
    place = next((i for i, (x, y) in enumerate(pairs) if x != y), len(pairs))
    window = slice(max(place - before, 0), place + after)
    return f"{wanted[window]!r} against {found[window]!r} at character {place}"
