"""How a model is chatted with: by the template in its files, or by the format that Meta documents for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from llama_convert.convert.errors import UsageError
from llama_convert.verify.chat_formats import FORMATS, NAMES, ChatFormat, Conversation, Message, documented
from llama_convert.verify.chat_rendering import Render, renderer
from llama_convert.verify.opened import Opened
from llama_convert.verify.speech import broken, encode_marked, marking
from llama_convert.verify.tokenizer_judges import Judge

TEMPLATES = {form.name.lower().replace(" ", "-"): form for form in FORMATS}
# Code points that are no character's; 65,534 of them, in no text all.
_PRIVATE = range(0xF0000, 0xFFFFE)
_GREETING = Conversation(name="greeting", messages=({"role": "user", "content": "Hi"},), prompt=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a conversation becomes the ids that the model goes on from.

    name: for people. end: the token that ends an answer, where it is known besides those of the files.
    """

    name: str
    judge: Judge
    render: Render
    end: int | None

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation that waits for an answer. UsageError where a template declines it.

        Names of special tokens in what is said are text: nobody ends his turn, or takes a role, by typing them.
        """
        text = self._text(messages)
        breaker = _unused("".join([text, *(message["content"] for message in messages)]))
        plain = [{**one, "content": broken(self.judge, one["content"], breaker)} for one in messages]
        if plain == [*messages]:
            return encode_marked(self.judge, text)
        return encode_marked(self.judge, self._text(plain), breaker)

    def _text(self, messages: Sequence[Message]) -> str:
        return self.render(Conversation(name="chat", messages=tuple(messages), prompt=True))


def _unused(text: str) -> str:
    """A character for private use that is not in the text."""
    return next(character for character in map(chr, _PRIVATE) if character not in text)


def find_dialect(opened: Opened, template: str | None = None) -> Dialect:
    """How this model is chatted with.

    template: one of TEMPLATES, whatever the files say; None for the model's own template or, where the files show
    a chat model by its end of turn alone, its version's format.
    Raises UsageError: no such template, a model that is not known to chat, a format whose tokens it has not.
    """
    if template is not None and template not in TEMPLATES:
        raise UsageError(f"--template {template}: there is no such", advice=f"Known are {', '.join(TEMPLATES)}.")
    form = TEMPLATES[template] if template else None
    own = _own(opened) if form is None else None
    if own is not None:
        return own
    form = form or _shown(opened)
    if form is None:
        raise UsageError(
            f"{opened.checkpoint.path}: nothing in its files says that it chats: a base model goes on from a text",
            advice=f"Use generate, or say in which format it chats: --template {', '.join(TEMPLATES)}.",
        )
    return _documented(opened, form)


def _own(opened: Opened) -> Dialect | None:
    uses = opened.checkpoint.tokenizer.conventions if opened.checkpoint.tokenizer else None
    if uses is None or uses.chat_template is None:
        return None

    def declined(reason: str) -> NoReturn:
        raise UsageError(
            f"{opened.checkpoint.path}: its chat template declines this: {reason}",
            advice="Leave --system out, or say another format with --template.",
        )

    begin, end = (opened.tokenizer.name_of(number) for number in (uses.begin, uses.end))
    render = renderer(uses.chat_template, begin, end, declined)
    return Dialect(name="its own template", judge=opened.tokenizer, render=render, end=None)


def _shown(opened: Opened) -> ChatFormat | None:
    """The version's format, where the files end answers at its end of turn and no text ends there otherwise."""
    checkpoint = opened.checkpoint
    uses = checkpoint.tokenizer.conventions if checkpoint.tokenizer else None
    form = documented(checkpoint.version.name, checkpoint.config)
    if form is None or uses is None or form.end == "</s>":
        return None
    return form if marking(opened.tokenizer).get(form.end) in uses.ends else None


def _documented(opened: Opened, form: ChatFormat) -> Dialect:
    marks = marking(opened.tokenizer)
    missing = [name for name in dict.fromkeys([*NAMES.findall(form.text(_GREETING)), form.end]) if name not in marks]
    if missing:
        raise UsageError(
            f"{opened.tokenizer.path}: {form.name}'s format needs tokens that it has not: {', '.join(missing)}",
            advice=f"Take another of {', '.join(TEMPLATES)}.",
        )
    return Dialect(name=f"{form.name}'s format", judge=opened.tokenizer, render=form.text, end=marks[form.end])
