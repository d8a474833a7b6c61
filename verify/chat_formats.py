"""What a conversation looks like to each Llama, from Meta's documents; and conversations to render.

Written here from the documents, not taken from the converter's templates: a mistake there would agree with itself.
Sources: llama-models models/llama3/prompt_format.md and chat_format.py; meta-llama/llama llama/generation.py
(chat_completion); codellama llama/generation.py (chat_completion; dialog_prompt_tokens for 70B).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llama_convert.convert.architecture import LlamaConfig

Message = dict[str, str]
_BEGIN, _END = "<s>", "</s>"
_BEGIN_3, _END_OF_TURN = "<|begin_of_text|>", "<|eot_id|>"
_STEP = "<step>"
_CODE_LLAMA_70B = (8192, 80)
# What looks like a special token of a Llama; no conversation has any in what is said.
NAMES = re.compile(r"<\|\w+\|>|</?s>|<step>")
# The lines that the templates of 3.1, 3.2 and 3.3 on the Hub begin with.
_DATES = re.compile(
    r"<\|begin_of_text\|><\|start_header_id\|>system<\|end_header_id\|>\n\n"
    r"(Cutting Knowledge Date: [^\n<]+\nToday Date: [^\n<]+\n\n)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages, and whether the prompt of an answer follows them."""

    name: str
    messages: tuple[Message, ...]
    prompt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """A documented format.

    text: of a conversation. mark: what no other format's texts have. end: the token that ends an answer.
    variation: the text as the template on the Hub renders it, where that is known to differ; it is given what
    was rendered. described: what that does differently.
    """

    name: str
    text: Callable[[Conversation], str]
    mark: str
    end: str
    variation: Callable[[Conversation, str], str | None] = lambda conversation, rendered: None
    described: str = ""


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def conversations() -> Iterator[Conversation]:
    """The same on every run; roles take turns, as Llama 2 needs them."""
    system, user = _said("system", "You are brief.\n\nAnswer in one line."), _said("user", "What is 2+2?")
    answer, again = _said("assistant", "4"), _said("user", "Why?  Say it twice.")
    yield Conversation(name="a question", messages=(user,), prompt=True)
    yield Conversation(name="system and user", messages=(system, user), prompt=True)
    yield Conversation(name="three turns", messages=(user, answer, again), prompt=True)
    yield Conversation(name="a whole conversation", messages=(system, user, answer, again, answer), prompt=False)
    padded = tuple(_said(one["role"], f"\n  {one['content']} \n\n") for one in (user, answer, again))
    yield Conversation(name="white space around", messages=padded, prompt=True)
    code = "def f(x):\n    return {'a': [x]}\n\n\n\tif x < 3 and y > 4: {{ x }} {% y %} <b>&amp;</b>\\n"
    foreign = "größe, việc, привет, 世界, مرحبا, 👩\u200d🚀 \u00a0½"
    yield Conversation(name="code", messages=(_said("user", code), _said("assistant", code), again), prompt=True)
    yield Conversation(name="other scripts", messages=(_said("system", foreign), _said("user", foreign)), prompt=True)


def llama_3(conversation: Conversation, opening: str | None = None) -> str:
    """A header before each message, the end of turn behind it; white space around a message is not its content.

    opening: in front of the system message, for which there is then always a place.
    """
    messages = list(conversation.messages)
    if opening is not None:
        said = messages.pop(0)["content"].strip() if messages[0]["role"] == "system" else ""
        messages.insert(0, _said("system", ""))
    else:
        said = messages[0]["content"].strip()
    contents = [(opening or "") + said, *(message["content"].strip() for message in messages[1:])]
    turns = [
        f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n{content}{_END_OF_TURN}"
        for message, content in zip(messages, contents, strict=True)
    ]
    prompt = "<|start_header_id|>assistant<|end_header_id|>\n\n" if conversation.prompt else ""
    return _BEGIN_3 + "".join(turns) + prompt


def _dated(conversation: Conversation, rendered: str) -> str | None:
    found = _DATES.match(rendered)
    return llama_3(conversation, found[1]) if found else None


def llama_2(conversation: Conversation) -> str:
    """The user's turns between [INST] and [/INST], the system message inside the first; each pair by itself."""
    system, turns = _parted(conversation.messages)
    contents = [message["content"] for message in turns]
    if system is not None:
        contents[0] = f"<<SYS>>\n{system}\n<</SYS>>\n\n{contents[0]}"
    return "".join(
        f"{_BEGIN}[INST] {content.strip()} [/INST]" if place % 2 == 0 else f" {content.strip()} {_END}"
        for place, content in enumerate(contents)
    )


def code_llama_70b(conversation: Conversation) -> str:
    """A source for each message, the system's always there, and a destination for what the model says.

    Meta's code makes tokens of the source and of the body apart, each with the space that SentencePiece puts first.
    """
    system, turns = _parted(conversation.messages)
    found = f"{_BEGIN} Source: system" + (f" \n\n {system.strip()}" if system else "") + _STEP
    for message in turns:
        destination = "\nDestination: user" if message["role"] == "assistant" else ""
        found += f" Source: {message['role']}{destination} \n\n {message['content'].strip()}{_STEP}"
    return found + (" Source: assistant\nDestination: user \n\n " if conversation.prompt else "")


def _hub_70b(conversation: Conversation, rendered: str) -> str:
    turns = [f"Source: {one['role']}\n\n {one['content'].strip()} {_STEP} " for one in conversation.messages]
    return _BEGIN + "".join(turns) + "Source: assistant\nDestination: user\n\n "


def _parted(messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    if messages[0]["role"] != "system":
        return None, messages
    return messages[0]["content"], messages[1:]


_HEADERS = ChatFormat(
    name="Llama 3",
    text=llama_3,
    mark="<|start_header_id|>",
    end=_END_OF_TURN,
    variation=_dated,
    described="lines with dates in a system block that is always there, as Meta's templates for 3.1 to 3.3 on the "
    "Hub have them; Meta's own code puts none",
)
_INSTRUCTIONS = ChatFormat(name="Llama 2", text=llama_2, mark="[INST]", end=_END)
_SOURCES = ChatFormat(
    name="Code Llama 70B",
    text=code_llama_70b,
    mark="Source: ",
    end=_STEP,
    variation=_hub_70b,
    described="no spaces before sources, spaces around <step>, and a prompt behind every conversation, as the "
    "template on the Hub; the tokens are not those of Meta's own code",
)
FORMATS = (_HEADERS, _INSTRUCTIONS, _SOURCES)
_BY_VERSION = {
    "2": _INSTRUCTIONS,
    "code": _INSTRUCTIONS,
    "3": _HEADERS,
    "3.1": _HEADERS,
    "3.2": _HEADERS,
    "3.3": _HEADERS,
}


def documented(version: str, config: LlamaConfig) -> ChatFormat | None:
    """The format of the version's instruct models; None for Llama 1 and the Guards, which do not chat."""
    if version == "code" and (config.hidden_size, config.layers) == _CODE_LLAMA_70B:
        return _SOURCES
    return _BY_VERSION.get(version)
