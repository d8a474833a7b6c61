"""Pictures of a verification as SVG to stand inside a page, whose style sheet gives them their colours.

Classes: `near` and `far` for what is explained and what is not, `gate`, `noise`, `axis`, `quiet`; cells have the
outcome's own word. Lengths are in pixels of the view box; a browser scales the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, inf, isfinite, log10
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llama_convert.verify.report import Detail

_WIDTH = 760
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Decades that are labelled on an axis at most; of more, every second or third.
_LABELS = 8
# Layers that are numbered at most.
_LAYERS = 12


def number(value: object) -> str:
    """A figure as a person reads it: 1,024, 0.0312, 4.1 times 10⁻⁶. None and what is not finite have words."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "not measured" if value is None else str(value)
    if isinstance(value, int) or not isfinite(value):
        return f"{value:,}" if isinstance(value, int) else "not finite"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.3g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa} \N{MULTIPLICATION SIGN} {_power(int(exponent))}"


def _power(exponent: int) -> str:
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """A logarithmic axis: whole decades from `low` to `high`, drawn from `start` to `end`.

    zero: a value is 0; the lowest decade, in which no other lies, stands for it.
    """

    low: int
    high: int
    start: float
    end: float
    zero: bool

    def at(self, value: float) -> float:
        """Where a value lies; zero at the start, and what is not finite at the end."""
        if value == 0:
            return self.start
        share = (log10(value) - self.low) / (self.high - self.low) if isfinite(value) else 1
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Place and text of each labelled decade."""
        step = ceil((self.high - self.low) / _LABELS)
        powers = range(self.low, self.high + 1, step)
        return [(self.at(10.0**power), "0" if self.zero and power == self.low else _power(power)) for power in powers]


def _scale(values: Sequence[float], start: float, end: float) -> _Scale:
    """An axis that has all these values, and room for what is zero and what is not finite."""
    shown = [log10(value) for value in values if 0 < value < inf] or [0]
    return _Scale(low=floor(min(shown)) - 1, high=ceil(max(shown)) + 1, start=start, end=end, zero=0 in values)


# --- one axis with marks --------------------------------------------------------------------------


class Mark(NamedTuple):
    """A value on a ruler. kind: a class of the style sheet. above: on which side of the line its words stand."""

    words: str
    value: float
    kind: str
    above: bool


def ruler(title: str, marks: Sequence[Mark], gate: float) -> str:
    """The marks on one logarithmic line; what lies beyond the gate is shaded."""
    scale, line = _scale([gate, *(mark.value for mark in marks)], 20, _WIDTH - 20), 52
    edge, words_below = scale.at(gate), line + (62 if any(not mark.above for mark in marks) else 30)
    parts = [
        f'<rect class="near-zone" x="{scale.start}" y="{line - 14}" width="{edge - scale.start:.1f}" height="28"/>',
        f'<rect class="far-zone" x="{edge:.1f}" y="{line - 14}" width="{scale.end - edge:.1f}" height="28"/>',
        f'<path class="axis" d="M{scale.start} {line}H{scale.end}"/>',
    ]
    parts += [f'<path class="axis" d="M{place:.1f} {line}v5"/>' for place, _ in scale.ticks()]
    parts += [_text(place, words_below, words, "middle", "quiet") for place, words in scale.ticks()]
    for above in (True, False):
        side = sorted((mark for mark in marks if mark.above is above), key=lambda mark: scale.at(mark.value))
        anchors = [_anchor(scale.at(mark.value), first=mark is side[0] and len(side) > 1) for mark in side]
        rows = [anchors[place + 1 :].count(anchor) for place, anchor in enumerate(anchors)]
        for mark, anchor, row in zip(side, anchors, rows, strict=True):
            parts.append(_mark(mark, scale.at(mark.value), line, anchor, row))
    return _picture(title, words_below + 4, parts)


def _anchor(place: float, *, first: bool) -> str:
    """Words of the leftmost of several end at it, the others' begin there, but for the ends of the picture."""
    return "end" if place > _WIDTH * 3 / 4 or (first and place > _WIDTH / 4) else "start"


def _mark(mark: Mark, place: float, line: float, anchor: str, row: int) -> str:
    """row: how far from the line its words stand, so that they meet no others."""
    tip = line - 30 - 14 * row if mark.above else line + 24 + 14 * row
    words = f"{mark.words} {number(mark.value)}"
    said = _text(place + (4 if anchor == "start" else -4), tip + (2 if mark.above else 8), words, anchor, mark.kind)
    stem = f'<path class="{mark.kind}" d="M{place:.1f} {line}V{tip}"/>'
    return f'{stem}<circle class="{mark.kind}" cx="{place:.1f}" cy="{line}" r="4"/>{said}'


# --- places on the way to the logits --------------------------------------------------------------


def way(title: str, places: Sequence[Detail]) -> str:
    """The difference behind each place, its gate and its noise, from the embedding to the output head."""
    top, bottom, left, right = 12, 224, 64, _WIDTH - 12
    values = [value for place in places for value in (place.difference, place.gate, place.noise) if value is not None]
    scale = _scale(values, bottom, top)
    step = (right - left) / max(len(places) - 1, 1)
    across = [left + step * index for index in range(len(places))]
    parts = [_grid_line(height, words, left, right) for height, words in scale.ticks()]
    parts += [_zone(across, places, scale, top), _line("noise", across, [place.noise for place in places], scale)]
    parts += [_line("gate", across, [place.gate for place in places], scale)]
    parts += [_line("near", across, [place.difference for place in places], scale)]
    parts += [_dot(x, place, scale, min(4, step / 2)) for x, place in zip(across, places, strict=True)]
    return _picture(title, 262, parts + _places(across, places, bottom))


def _grid_line(height: float, words: str, left: float, right: float) -> str:
    return f'<path class="grid" d="M{left} {height:.1f}H{right}"/>' + _text(left - 8, height + 4, words, "end", "quiet")


def _zone(across: Sequence[float], places: Sequence[Detail], scale: _Scale, top: float) -> str:
    """What rounding does not explain: all above the gates."""
    edge = [f"{x:.1f} {scale.at(place.gate):.1f}" for x, place in zip(across, places, strict=True) if place.gate]
    outline = f"M{across[0]:.1f} {top}L{'L'.join(edge)}L{across[-1]:.1f} {top}Z"
    return f'<path class="far-zone" d="{outline}"/>' if edge else ""


def _line(kind: str, across: Sequence[float], values: Sequence[float | None], scale: _Scale) -> str:
    points = [f"{x:.1f} {scale.at(y):.1f}" for x, y in zip(across, values, strict=True) if y is not None]
    return f'<path class="line {kind}" d="M{"L".join(points)}"/>' if points else ""


def _dot(x: float, place: Detail, scale: _Scale, radius: float) -> str:
    if place.difference is None:
        return ""
    kind, y = "far" if place.outcome.value == "far" else "near", scale.at(place.difference)
    words = f"{place}: difference {number(place.difference)}, noise {number(place.noise)}"
    words += f", gate {number(place.gate)}" if place.gate is not None else ", not judged"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{escape(words)}</title></circle>'


def _places(across: Sequence[float], places: Sequence[Detail], bottom: float) -> list[str]:
    """Words below: the two ends, and the first place of a layer now and then."""
    firsts: dict[int, float] = {}
    for x, place in zip(across, places, strict=True):
        if place.layer is not None:
            firsts.setdefault(place.layer, x)
    shown = list(firsts.items())[:: ceil(len(firsts) / _LAYERS) or 1]
    words = [_text(across[0], bottom + 34, str(places[0]), "start", "quiet")]
    words += [_text(across[-1], bottom + 34, str(places[-1]), "end", "quiet")]
    words += [_text(x, bottom + 18, f"layer {layer}", "start", "quiet") for layer, x in shown[:1]]
    return words + [_text(x, bottom + 18, str(layer), "middle", "quiet") for layer, x in shown[1:]]


# --- weights, a cell each -------------------------------------------------------------------------


def strip(cells: Sequence[Detail], columns: int, words: Sequence[str]) -> str:
    """One row of a heat map: a cell for each weight of a role; `columns` of them fill the row.

    words: of each cell, for who points at it.
    """
    wide, high = 400 / columns, 16
    both = enumerate(zip(cells, words, strict=True))
    found = [_cell(cell, index * wide, wide, high, said) for index, (cell, said) in both]
    return f'<svg class="strip" viewBox="0 0 400 {high}" preserveAspectRatio="none" role="img">{"".join(found)}</svg>'


def _cell(cell: Detail, x: float, wide: float, high: float, words: str) -> str:
    gap = min(1, wide / 8)
    shade = f' fill-opacity="{0.25 + 0.6 * _share(cell):.2f}"' if cell.outcome.value == "near" else ""
    shape = (
        f'<rect class="{cell.outcome.value}" x="{x:.2f}" y="0.5" width="{wide - gap:.2f}" height="{high - 1}"{shade}>'
    )
    # Not by colour alone: what is wrong is crossed out too.
    ends = f"{x:.2f} 0.5l{wide - gap:.2f} {high - 1}m0 {1 - high}l{gap - wide:.2f} {high - 1}"
    cross = f'<path class="cross" d="M{ends}"/>' if cell.outcome.value in ("far", "missing") else ""
    return f"{shape}<title>{escape(words)}</title></rect>{cross}"


def _share(cell: Detail) -> float:
    """The difference as a part of what is allowed."""
    return cell.difference / cell.gate if cell.difference is not None and cell.gate else 0


# --- what all have in common ----------------------------------------------------------------------


def _text(x: float, y: float, words: str, anchor: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _picture(title: str, height: int, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
