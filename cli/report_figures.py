"""The pictures of a report's page, with the words around them: which level has which, and what it shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import isfinite
from typing import TYPE_CHECKING

from llama_convert.cli.pictures import Mark, number, ruler, strip, way

if TYPE_CHECKING:
    from llama_convert.verify.report import Detail, LevelResult

# norm_eps 1e-6 for 1e-5, in spreads of the logits; every other mistake in the lists is larger.
_SMALLEST_MISTAKE = 1e-2
_OUTCOMES = {
    "equal": "equal bit for bit",
    "rounded": "equal bit for bit after rounding to B's type",
    "near": "as near as its type explains (the darker, the nearer to the limit)",
    "far": "different",
    "missing": "not comparable",
}


def pictures(levels: Sequence[LevelResult]) -> str:
    """A ruler for each level that judges a distance, and the way to the logits."""
    return "".join(_ruler(level) + _way(level) for level in levels)


def weights_table(levels: Sequence[LevelResult]) -> str:
    """A heat map of the weights, a row for each role, with the worst error of each; nothing where none was compared."""
    details = [detail for level in levels if level.name == "tensors" for detail in level.details]
    if not details:
        return ""
    roles: dict[str, list[Detail]] = {}
    for detail in details:
        roles.setdefault(detail.name, []).append(detail)
    columns = max(map(len, roles.values()))
    rows = "".join(_role(name, cells, columns) for name, cells in roles.items())
    heads = (
        f"<th>weight</th><th>{_layers(columns)}</th><th class='number'>right</th>"
        "<th class='number'>largest error</th><th class='number'>explained</th>"
    )
    seen = {detail.outcome.value for detail in details}
    legend = _legend((kind, "", words) for kind, words in _OUTCOMES.items() if kind in seen)
    return (
        f'<div class="scroll"><table class="weights"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'{legend}<p class="muted">Errors are ||B &minus; A|| / ||A||; 0 where each bit is as it should be.</p>'
    )


def _layers(columns: int) -> str:
    return f"layer 0 to {columns - 1}" if columns > 1 else ""


def _role(name: str, cells: Sequence[Detail], columns: int) -> str:
    right = sum(cell.outcome.value in ("equal", "rounded", "near") for cell in cells)
    errors = [cell.difference for cell in cells if cell.difference is not None]
    gates = {cell.gate for cell in cells if cell.gate is not None}
    picture = strip(cells, columns, list(map(_said, cells)))
    return (
        f'<tr><th scope="row">{escape(name)}</th><td class="cells">{picture}</td>'
        f'<td class="number">{right} of {len(cells)}</td><td class="number">{_worst(errors)}</td>'
        f'<td class="number">{number(max(gates)) if gates else ""}</td></tr>'
    )


def _worst(errors: Sequence[float]) -> str:
    if not errors:
        return "not comparable"
    return number(max(errors) if all(map(isfinite, errors)) else float("inf"))


def _said(cell: Detail) -> str:
    error = f", error {number(cell.difference)}" if cell.difference else ""
    return f"{cell}: {_OUTCOMES[cell.outcome.value].partition(' (')[0]}{error}"


# --- distances ------------------------------------------------------------------------------------


def _ruler(level: LevelResult) -> str:
    """The level's distance beside its gate, and by how much it is on the right side."""
    what = _judged(level)
    if what is None or level.gate is None:
        return ""
    label, found = what
    near = "near" if found <= level.gate else "far"
    marks = [Mark(label, found, near, above=True), Mark("gate", level.gate, "gate", above=True)]
    noise = level.measures.get("noise")
    if label == "difference" and isinstance(noise, float):
        marks.append(Mark("noise", noise, "noise", above=False))
        marks.append(Mark("smallest known mistake", _SMALLEST_MISTAKE, "known", above=False))
    title = f"{level.name}: {label} {number(found)}, gate {number(level.gate)}"
    return f"<figure>{ruler(title, marks, level.gate)}<figcaption>{_margin(level, label, found)}</figcaption></figure>"


def _judged(level: LevelResult) -> tuple[str, float] | None:
    """What the level's gate is held against, by name; None where nothing is."""
    measures = level.measures
    names = {
        "tensors": ("worst_error",),
        "logits": ("mean_divergence",) if "quantised" in measures else ("difference",) if _exact(level) else (),
        "against": (str(measures.get("judged")),),
    }.get(level.name, ())
    words = {"worst_error": "largest error as a part of the explained one", "mean_divergence": "divergence"}
    for name in names:
        value = measures.get(name)
        if isinstance(value, (int, float)):
            return words.get(name, name), float(value)
    return None


def _exact(level: LevelResult) -> bool:
    """Whether the difference itself is judged."""
    return any(place.gate is not None for place in level.details)


def _margin(level: LevelResult, label: str, found: float) -> str:
    gate = level.gate or 0.0
    if not isfinite(found) or found > gate:
        times = f"{number(found / gate)} times the gate" if isfinite(found) and gate else "beyond the gate"
        return f"<strong>{escape(level.name)}</strong>: the {label} is {times}: more than a right conversion brings."
    room = f", which is {number(gate / found)} times as large" if found else ""
    unit = " In spreads (standard deviations) of the logits." if label == "difference" else ""
    return f"<strong>{escape(level.name)}</strong>: the {label} is below the gate{room}.{unit}"


def _way(level: LevelResult) -> str:
    """Where on the way to the logits the two part, or that they do not."""
    places = level.details if level.name == "logits" else ()
    if not places:
        return ""
    parted = next((place for place in places if place.outcome.value == "far"), None)
    not_parted = "They part nowhere." if _exact(level) else "Only their end is judged, by the divergence."
    words = f"They part in the {parted}." if parted else not_parted
    said = (
        "The largest difference behind each place of the model, in spreads of A's values there, from the embedding "
        f"to the output head. {words}"
    )
    keys = [
        ("difference", "stroke", "difference of B from A"),
        ("noise", "stroke", "noise: A from itself, summed otherwise"),
    ]
    keys += [("gate", "stroke", "gate: the most that rounding explains")] if _exact(level) else []
    picture = way(f"Differences place by place. {words}", places)
    return f"<figure>{picture}{_legend(keys)}<figcaption>{escape(said)}</figcaption></figure>"


def _legend(keys: Iterable[tuple[str, str, str]]) -> str:
    items = "".join(f'<span><i class="key {kind} {shape}"></i>{escape(words)}</span> ' for kind, shape, words in keys)
    return f'<div class="legend">{items}</div>'
