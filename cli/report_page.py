"""A verification as one page that shows others what was proven: no script, no font, nothing from elsewhere.

Everything on it is from the report and from `Made`, as `--json` has them; the same report gives the same page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, NamedTuple

from llama_convert.cli.output import gigabytes
from llama_convert.cli.pictures import number
from llama_convert.cli.report_figures import pictures, weights_table
from llama_convert.cli.report_style import STYLE

if TYPE_CHECKING:
    from llama_convert.verify.report import FileFacts, LevelResult, Report, Side

# Findings of a level: what they have in common is said in the end.
_SHOWN = 12
_TONES = {"passed": "passed", "failed": "failed", "not checked": "open"}


class _Level(NamedTuple):
    """What a level asks of two sides, and of one; and what it cannot know even where it passes."""

    question: str
    alone: str
    limit: str


_CHECKSUMS = "Is every byte as it was when its checksum was made?"
_LIBRARY = "Does the other library make of these files what is made of them here?"
_LEVELS = {
    "files": _Level(
        _CHECKSUMS, _CHECKSUMS, "that a checksum was made of the right file; a file without one is not checked"
    ),
    "structure": _Level(
        "Is each weight there once, in the shape that the config says, and do both configs mean the same?",
        "Is each weight there once, in the shape that the config says?",
        "that the config is the model's: a wrong value on both sides agrees with itself",
    ),
    "tensors": _Level(
        "Is each weight of B that of A: bit for bit, as rounding gives it, or as near as its type explains?",
        "Can each weight be read, and are its copies equal?",
        "of types that nothing can recompute, an error that is smaller than the type's own",
    ),
    "tokenizer": _Level(
        "Does each id stand for the same bytes, and do texts get the same ids?",
        "Does the tokenizer run, and does each id that it gives stand for a token?",
        "texts that were not tried",
    ),
    "logits": _Level(
        "Do both compute the same function where they are tried?",
        "Does the model compute finite numbers where it is tried?",
        "rows that no prompt touches, and changes smaller than rounding, which the level of the tensors sees",
    ),
    "against": _Level(_LIBRARY, _LIBRARY, "that two programs do not read the same wrong file alike"),
}
_UNKNOWN = _Level("", "", "what it was not made for")
_ALONE = "Nothing was compared with another checkpoint: the weights may be those of another model than the name says."


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """How a report was made. tool: versions by name. command: its words. levels: all that could be asked for."""

    tool: Mapping[str, str]
    date: str
    command: Sequence[str]
    levels: Sequence[str]

    def as_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {"tool": dict(self.tool), "date": self.date, "command": list(self.command)}


def report_page(report: Report, made: Made) -> str:
    """The page, as HTML. Folders above the two sides are left out: the page may be published."""
    shown = _without_folders(report)
    sections = [(title, section(shown, made)) for title, section in _SECTIONS]
    body = "\n".join(f"<section><h2>{title}</h2>\n{content}</section>" for title, content in sections if content)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_text(verdict(shown))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{_header(shown)}\n{body}\n</main>\n</body>\n</html>\n"
    )


def _without_folders(report: Report) -> Report:
    """The report with absolute paths cut to what lies beside the two sides."""
    sides = [str(side.parent) + os.sep for side in (report.a, report.b) if side is not None and side.is_absolute()]
    above = sorted((folder for folder in sides if folder != os.sep * 2), key=len, reverse=True)

    def cut(words: str) -> str:
        for folder in above:
            words = words.replace(folder, "")
        return words

    levels = tuple(
        replace(
            level,
            figures=cut(level.figures),
            findings=tuple(map(cut, level.findings)),
            warnings=tuple(map(cut, level.warnings)),
        )
        for level in report.levels
    )
    causes = tuple(replace(cause, sentence=cut(cause.sentence)) for cause in report.diagnosis)
    return replace(report, levels=levels, diagnosis=causes)


# --- the verdict ----------------------------------------------------------------------------------


def verdict(report: Report) -> str:
    """What was found, as one sentence."""
    verdicts = {level.verdict.value for level in report.levels}
    first, *others = (f"{side.name} ({side.format})" for side in report.sides)
    if not others:
        state = "is sound" if report.ok else "is NOT sound" if "failed" in verdicts else "could not be checked"
        return f"{first} {state}."
    if "failed" in verdicts:
        return f"{others[0]} is NOT the same model as {first}."
    if not report.ok:
        return f"Whether {others[0]} is the same model as {first} could not be checked."
    return f"{others[0]} is the same model as {first}{_how_near(report)}."


def _how_near(report: Report) -> str:
    """In which sense the weights are the same, where they were compared one by one."""
    outcomes = {detail.outcome.value for level in report.levels if level.name == "tensors" for detail in level.details}
    if "near" in outcomes:
        return ", as near as its types allow"
    if "rounded" in outcomes:
        return ", rounded to its types as it should be"
    return ", bit for bit" if outcomes else ""


def _header(report: Report) -> str:
    tone = "passed" if report.ok else "failed" if any(_failed(level) for level in report.levels) else "open"
    groups = {word: [level.name for level in report.levels if level.verdict.value == word] for word in _TONES}
    found = "; ".join(f"{word}: {', '.join(names)}" for word, names in groups.items() if names)
    return f'<header class="{tone}"><h1>{_text(verdict(report))}</h1><p>Levels {_text(found)}.</p></header>'


def _failed(level: LevelResult) -> bool:
    return level.verdict.value == "failed"


# --- sections -------------------------------------------------------------------------------------


def _why(report: Report, made: Made) -> str:
    return _list(
        f"<strong>{_text(found.sentence)}</strong> <code>{_text(found.cause)}</code><br>"
        f'<span class="muted">{_text(found.fix)}</span>'
        for found in report.diagnosis
    )


def _compared(report: Report, made: Made) -> str:
    heads = "".join(f"<th>{letter}</th>" for letter, _ in zip("AB", report.sides, strict=False))
    rows = "".join(
        f'<tr><th scope="row">{label}</th>{"".join(f"<td>{show(side)}</td>" for side in report.sides)}</tr>'
        for label, show in _ROWS
        if any(show(side) for side in report.sides)
    )
    return f'<table class="sides"><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _types(side: Side) -> str:
    return ", ".join(f"{_text(name)} ({count:,} values)" for name, count in side.types.items())


def _origin(side: Side) -> str:
    return f"{_text(side.repository)}, commit <code>{_text(side.commit)}</code>" if side.repository else ""


def _files(side: Side) -> str:
    return "<br>".join(f"{_text(file.name)}, {gigabytes(file.nbytes)}{_digest(file)}" for file in side.files)


def _digest(file: FileFacts) -> str:
    if file.digest is None:
        return ""
    return f'<br><span class="digest muted"><b>{_text(file.digest)}</b> by {_text(file.said_by)}</span>'


_ROWS: tuple[tuple[str, Callable[[Side], str]], ...] = (
    ("name", lambda side: f"<strong>{_text(side.name)}</strong>"),
    ("from", _origin),
    ("format", lambda side: _text(side.format)),
    ("taken as", lambda side: f"Llama {_text(side.llama_version)}"),
    ("parameters", lambda side: f"{side.parameters:,}"),
    ("stored as", _types),
    ("files", _files),
)


def _levels(report: Report, made: Made) -> str:
    rows = "".join(_level(level, alone=report.b is None) for level in report.levels)
    heads = "<tr><th>level</th><th>result</th><th>what was found</th></tr>"
    return f"<table><thead>{heads}</thead><tbody>{rows}</tbody></table>"


def _level(level: LevelResult, *, alone: bool) -> str:
    word, known = level.verdict.value, _LEVELS.get(level.name, _UNKNOWN)
    more = [f"and {len(level.findings) - _SHOWN} more; --json has all"] if len(level.findings) > _SHOWN else []
    findings = _list(map(_text, [*level.findings[:_SHOWN], *more]))
    warnings = _list(f"warning: {_text(warning)}" for warning in level.warnings)
    return (
        f'<tr><th scope="row">{_text(level.name)}</th><td><span class="badge {_TONES[word]}">{word}</span></td>'
        f'<td><span class="muted">{known.alone if alone else known.question}</span><br>{_text(level.figures)}'
        f'<div class="findings">{findings}</div>{warnings}</td></tr>'
    )


def _not_checked(report: Report, made: Made) -> str:
    """Levels without a verdict, levels that nobody asked for, and what those that passed cannot know."""
    there = {level.name for level in report.levels}
    open_ = [f"<strong>{_text(level.name)}</strong>: {_text(level.figures)}" for level in report.not_checked]
    open_ += [f"<strong>{name}</strong>: not asked for" for name in made.levels if name not in there]
    passed = [level.name for level in report.levels if level.verdict.value == "passed"]
    limits = [f"<strong>{_text(name)}</strong>: {_LEVELS.get(name, _UNKNOWN).limit}" for name in passed]
    known = "<p>What a level cannot show even where it passes:</p>" + _list(limits) if limits else ""
    alone = f"<p>{_ALONE}</p>" if report.b is None else ""
    return alone + (_list(open_) or "<p>No level was left out.</p>") + known


def _figures(report: Report, made: Made) -> str:
    return "".join(map(_measures, report.levels))


def _measures(level: LevelResult) -> str:
    found = [*level.measures.items(), *([("gate", level.gate)] if level.gate is not None else [])]
    rows = "".join(
        f"<div><dt>{_text(name.replace('_', ' '))}</dt><dd>{_text(number(value))}</dd></div>" for name, value in found
    )
    return f"<h3>{_text(level.name)}</h3><dl>{rows}</dl>" if rows else ""


def _how(report: Report, made: Made) -> str:
    words = [Path(word).name if os.path.isabs(word) else word for word in made.command]
    versions = ", ".join(f"{_text(name)} {_text(version)}" for name, version in made.tool.items())
    return f"<p>With {versions}, on <time>{_text(made.date)}</time>:</p><pre><code>{_text(join(words))}</code></pre>"


_SECTIONS: tuple[tuple[str, Callable[[Report, Made], str]], ...] = (
    ("Why", _why),
    ("What was looked at", _compared),
    ("Level by level", _levels),
    ("The distances and what they are judged by", lambda report, made: pictures(report.levels)),
    ("The weights, one cell each", lambda report, made: weights_table(report.levels)),
    ("What was not checked", _not_checked),
    ("All figures", _figures),
    ("How this was made", _how),
)


def _list(items: Iterable[str]) -> str:
    found = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{found}</ul>" if found else ""


def _text(words: object) -> str:
    """Any words as text of the page; what UTF-8 cannot hold, as some file names, is spelled out."""
    return escape(str(words).encode("utf-8", "backslashreplace").decode("utf-8"))
