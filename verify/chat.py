"""Whether a chat model is spoken to as Meta documents it: template, special tokens, and where answers end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llama_convert.convert.checkpoint import Checkpoint, Conventions
from llama_convert.verify.chat_formats import FORMATS, NAMES, ChatFormat, Conversation, conversations, documented
from llama_convert.verify.chat_rendering import TemplateRefused, first_difference, renderer
from llama_convert.verify.tokenizer_judges import Judge, MissingLibrary


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFindings:
    """What is wrong, and what deserves a look; both one line each. checked: sides whose template was run."""

    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    checked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One side's template, and its texts of all conversations by their names."""

    checkpoint: Checkpoint
    judge: Judge
    uses: Conventions
    texts: Mapping[str, str]

    @property
    def path(self) -> str:
        return str(self.checkpoint.path)

    @property
    def claimed(self) -> ChatFormat | None:
        """The known format whose marks its texts have."""
        return next((one for one in FORMATS if any(one.mark in text for text in self.texts.values())), None)


def check_chat(sides: Sequence[tuple[Checkpoint, Judge]]) -> ChatFindings:
    """Whether the chat templates of A, and of B where there is one, give the documented texts, and the same.

    sides: A, and B. Nothing is checked of sides without a template. Of two sides A's is what B's is held
    against: what only Meta's documents say otherwise is a warning, as A may be trained on its own format; so
    it is of a format that is none of Meta's.
    """
    findings: list[str] = []
    warnings: list[str] = []
    rendered: list[_Side | None] = []
    try:
        for checkpoint, judge in sides:
            rendered.append(_rendered(checkpoint, judge, findings))
    except MissingLibrary as error:
        return ChatFindings(warnings=(f"chat template not checked: {error.advice}",))
    for side in filter(None, rendered):
        wrong, told = _judged(side)
        (warnings if _lenient(side, rendered) else findings).extend(wrong)
        warnings.extend(told)
    findings.extend(_between(rendered))
    warnings.extend(_lost(sides))
    return ChatFindings(
        findings=tuple(findings), warnings=tuple(dict.fromkeys(warnings)), checked=sum(map(bool, rendered))
    )


def _lenient(side: _Side, rendered: Sequence[_Side | None]) -> bool:
    """A format of its own; or A's, whatever it is, where B is held against it, and B's where that is the same."""
    if side.claimed is None:
        return True
    a = rendered[0]
    return len(rendered) > 1 and a is not None and a.texts == side.texts and {*a.uses.ends} <= {*side.uses.ends}


def _rendered(checkpoint: Checkpoint, judge: Judge, findings: list[str]) -> _Side | None:
    """None where there is no template, or one that is refused: that is added to the findings."""
    uses = checkpoint.tokenizer.conventions if checkpoint.tokenizer else None
    if uses is None or uses.chat_template is None:
        return None
    try:
        render = renderer(uses.chat_template, judge.name_of(uses.begin), judge.name_of(uses.end))
        texts = {conversation.name: render(conversation) for conversation in conversations()}
    except TemplateRefused as error:
        findings.append(f"{checkpoint.path}: its chat template was refused: {error.summary}")
        return None
    return _Side(checkpoint=checkpoint, judge=judge, uses=uses, texts=texts)


def _judged(side: _Side) -> tuple[list[str], list[str]]:
    """What is wrong with one side's, and what deserves a look."""
    version = side.checkpoint.version.name
    wanted = documented(version, side.checkpoint.config)
    if wanted is None:
        told = f"{side.path}: its chat template was held against no document: Llama {version} has no format of chats"
        return [*_token_problems(side)], [told]
    if side.claimed is None:
        told = f"{side.path}: its chat template is of a format of its own, not held against {wanted.name}'s"
        return [*_token_problems(side)], [told]
    wrong, told = [], ""
    for conversation in conversations():
        problem, varied = _departure(side, wanted, conversation)
        wrong += [problem] if problem else []
        told = told or varied
    return [*wrong[:1], *_token_problems(side), *_end_problems(side, wanted)], [told] if told else []


def _departure(side: _Side, wanted: ChatFormat, conversation: Conversation) -> tuple[str, str]:
    """How the text departs from the document, and how it varies in a known way; "" where it does not."""
    found, text = side.texts[conversation.name], wanted.text(conversation)
    if found == text:
        return "", ""
    if found == wanted.variation(conversation, found):
        return "", f"{side.path}: its chat template has {wanted.described}"
    difference = first_difference(text, found)
    return f"{side.path}: chat template, {conversation.name}: {wanted.name}'s {difference}", ""


def _token_problems(side: _Side) -> Iterator[str]:
    """Each special token that a text names is one, and becomes its one id."""
    names = dict.fromkeys(name for text in side.texts.values() for name in NAMES.findall(text))
    unknown = [name for name in names if name not in side.judge.special]
    yield from (f"{side.path}: the chat template uses {name}, which is no special token" for name in unknown)
    if not side.judge.reads_names:
        return
    added = len(side.judge.encode([""])[0])
    for conversation, text in side.texts.items():
        ids = side.judge.encode([text])[0][added:]
        for name in (name for name in names if name not in unknown):
            number, count = side.judge.special[name], text.count(name)
            if ids.count(number) != count:
                yield (
                    f"{side.path}: chat template, {conversation}: {name} is there {count} times, "
                    f"its id {number} {ids.count(number)} times"
                )
                return


def _end_problems(side: _Side, wanted: ChatFormat) -> Iterator[str]:
    number = side.judge.special.get(wanted.end)
    if number is not None and number not in side.uses.ends:
        yield f"{side.path}: answers end at {list(side.uses.ends)}, not at {wanted.end} ({number}) as chats do"


def _between(rendered: Sequence[_Side | None]) -> Iterator[str]:
    """The first conversation that two sides render to different texts."""
    if len(rendered) < 2 or rendered[0] is None or rendered[1] is None:
        return
    a, b = rendered[0], rendered[1]
    different = [name for name, text in a.texts.items() if b.texts[name] != text]
    if different:
        name = different[0]
        yield f"chat templates differ in {name}: {first_difference(a.texts[name], b.texts[name])}"


def _lost(sides: Sequence[tuple[Checkpoint, Judge]]) -> Iterator[str]:
    """Formats without a place for a template lose it, and say so when they are written."""
    has = [_template(checkpoint) is not None for checkpoint, _ in sides]
    if len(has) > 1 and has[0] and not has[1]:
        yield f"{sides[1][0].path}: no chat template, and {sides[0][0].path} has one"


def _template(checkpoint: Checkpoint) -> str | None:
    uses = checkpoint.tokenizer.conventions if checkpoint.tokenizer else None
    return uses.chat_template if uses else None
