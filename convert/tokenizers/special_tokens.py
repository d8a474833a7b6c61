"""The special tokens that Meta's code adds to a tokenizer file, by version: their names are in no file."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence

from llama_convert.convert.errors import UsageError
from llama_convert.convert.tokenizers.problems import capped

BEGIN = "<|begin_of_text|>"
END = "<|end_of_text|>"
END_OF_TURN = "<|eot_id|>"
COUNT = 256
_RESERVED = re.compile(r"<\|reserved_special_token_\d+\|>")

SENTENCEPIECE_VERSIONS = ("1", "2", "code", "guard-1")
LLAMA_3_VERSIONS = ("3", "guard-2")
LLAMA_3_1_VERSIONS = ("3.1", "3.2", "3.3", "guard-3")
VERSIONS = SENTENCEPIECE_VERSIONS + LLAMA_3_VERSIONS + LLAMA_3_1_VERSIONS

_SENTENCEPIECE = ("<unk>", "<s>", "</s>")
_LLAMA_3 = {
    0: BEGIN,
    1: END,
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: END_OF_TURN,
}
_LLAMA_3_1 = _LLAMA_3 | {
    4: "<|finetune_right_pad_id|>",
    8: "<|eom_id|>",
    10: "<|python_tag|>",
}


def special_tokens(version: str) -> tuple[str, ...]:
    """The names of a version's special tokens, in the order of their ids.

    version: one of VERSIONS. From Llama 3 on 256 names, for the 256 ids behind the ranks of the file: those
    that mean something, and reserved ones numbered through the gaps. Before that 3 names, which are also in
    the file, with the ids 0, 1, 2. Names are those of Hugging Face; Meta's llama-models calls the sixth and
    the twelfth of 3.1 <|step_id|> and <|image|>, so compare ids, not names, with it.
    """
    if version in SENTENCEPIECE_VERSIONS:
        return _SENTENCEPIECE
    if version in LLAMA_3_VERSIONS:
        return _numbered(_LLAMA_3)
    if version in LLAMA_3_1_VERSIONS:
        return _numbered(_LLAMA_3_1)
    raise UsageError(f"There is no Llama version {version!r}.", advice=f"Known are {', '.join(VERSIONS)}.")


def _numbered(named: Mapping[int, str]) -> tuple[str, ...]:
    reserved = iter(range(COUNT))
    return tuple(named[i] if i in named else f"<|reserved_special_token_{next(reserved)}|>" for i in range(COUNT))


def is_metas(name: str) -> bool:
    """Whether Meta's code gives this name to a special token of a Llama 3 or later one."""
    return name in _LLAMA_3.values() or name in _LLAMA_3_1.values() or is_reserved(name)


def is_reserved(name: str) -> bool:
    """Whether this is the name of a special token that Meta left without a task."""
    return _RESERVED.fullmatch(name) is not None


def begin_token(version: str) -> str:
    """The token that every text of this version starts with."""
    return "<s>" if version in SENTENCEPIECE_VERSIONS else BEGIN


def end_token(version: str, *, instruct: bool) -> str:
    """The token that ends a text, for base models, or a turn, for `instruct` ones and for Llama Guard 3."""
    if version in SENTENCEPIECE_VERSIONS:
        return "</s>"
    return END_OF_TURN if instruct or version == "guard-3" else END


def replace_names(
    names: Sequence[str], *, version: str, count: int, instruct: bool, ordinary: Container[bytes] = ()
) -> tuple[str, ...]:
    """The user's own names for the special tokens, checked; for the versions from Llama 3 on.

    count: how many ids there are behind the ordinary tokens. ordinary: the tokens of the file.
    Raises UsageError with every finding: a wrong number of names, a name twice or empty, a name that is the
    text of an ordinary token, or a begin, end or header token that is not where the model learned it.
    """
    problems = _bad_names(names, ordinary) + _moved(names, version, instruct)
    if len(names) != count:
        problems.insert(0, f"{len(names)} names for {count} ids")
    if problems:
        raise UsageError(
            f"These special tokens do not fit Llama {version}:",
            problems=capped(problems),
            advice="Give one name for each id, in the order of the ids, or leave the option out.",
        )
    return tuple(names)


def _bad_names(names: Sequence[str], ordinary: Container[bytes]) -> list[str]:
    problems = []
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        if not name.strip():
            problems.append(f"name {i} is empty")
        elif name in seen:
            problems.append(f"name {i}, {name!r}, is also name {seen[name]}")
        elif name.encode("utf-8", "surrogatepass") in ordinary:
            problems.append(f"name {i}, {name!r}, is the text of an ordinary token")
        seen.setdefault(name, i)
    return problems


def _moved(names: Sequence[str], version: str, instruct: bool) -> list[str]:
    """The tokens that the model cannot do without and that are not at their place."""
    needed = {BEGIN, end_token(version, instruct=instruct)}
    if instruct:
        needed |= {"<|start_header_id|>", "<|end_header_id|>"}
    return [
        f"name {i} must be {name!r}, not {names[i] if i < len(names) else 'nothing'!r}"
        for i, name in enumerate(special_tokens(version))
        if name in needed and (i >= len(names) or names[i] != name)
    ]
