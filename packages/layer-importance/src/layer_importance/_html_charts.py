"""Plots of a report, as inline SVG; all that they say in colour, they say in words too."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from layer_importance._plan import Action
from layer_importance._scores import MethodScores, Score, Table


def heat_map(methods: Mapping[str, MethodScores], names: Sequence[str]) -> str:
    """Returns a table of units by methods: values, shaded by rank, with errors as tooltips."""
    heads = "".join(
        f"<th class='n'>{escape(name)}<br><small>{escape(scores.measure)}, {scores.direction}"
        "</small></th>"
        for name, scores in methods.items()
    )
    shades = {name: _ranks(scores) for name, scores in methods.items()}
    rows = "".join(
        f"<tr><th>{escape(unit)}</th>"
        + "".join(_cell(scores, unit, shades[name]) for name, scores in methods.items())
        + "</tr>\n"
        for unit in names
    )
    return f"<table><thead><tr><th>unit</th>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>"


def _ranks(scores: MethodScores) -> dict[str, tuple[int, int]]:
    """Place of every unit, 1 for the least, and of how many."""
    order = sorted(scores, key=lambda name: scores[name].value)
    return {name: (place + 1, len(order)) for place, name in enumerate(order)}


def _cell(scores: MethodScores, unit: str, ranks: Mapping[str, tuple[int, int]]) -> str:
    if unit not in scores:
        why = scores.missing.get(unit, "no score")
        return f"<td class='n' title='{escape(why)}'>–</td>"
    score, (rank, of) = scores[unit], ranks[unit]
    error = "" if math.isnan(score.standard_error) else f" ± {score.standard_error:.2g}"
    note = f"; {scores.notes[unit]}" if unit in scores.notes else ""
    title = f"{score.value:.6g}{error}, rank {rank} of {of}, {score.samples} samples{note}"
    shade = 0.0 if of < 2 else 0.55 * (rank - 1) / (of - 1)
    return (
        f"<td class='n' style='background:rgb(90 140 200/{shade:.2f})' title='{escape(title)}'>"
        f"{score.value:.3g} <small>#{rank}</small></td>"
    )


def scatter(across: MethodScores, up: MethodScores, names: Sequence[str]) -> str:
    """Returns an SVG of one method's values against another's, with bars of one standard error."""
    both = [
        name
        for name in names
        if all(name in m and math.isfinite(m[name].value) for m in (across, up))
    ]
    x, y = (_Axis([end for n in both for end in _ends(m[n])]) for m in (across, up))
    marks = []
    for name in both:
        a, b = across[name], up[name]
        px, py = 80 + 520 * x(a.value), 300 - 270 * y(b.value)
        for score, dx, dy in ((a, 520 * x.scale, 0.0), (b, 0.0, 270 * y.scale)):
            error = score.standard_error
            if math.isfinite(error) and error > 0:
                marks.append(
                    f"<line x1='{px - dx * error:.1f}' x2='{px + dx * error:.1f}' "
                    f"y1='{py - dy * error:.1f}' y2='{py + dy * error:.1f}' class='bar'/>"
                )
        title = f"{name}: {across.method} {a.value:.4g}, {up.method} {b.value:.4g}"
        marks.append(
            f"<circle cx='{px:.1f}' cy='{py:.1f}' r='4'><title>{escape(title)}</title></circle>"
            f"<text x='{px + 6:.1f}' y='{py - 6:.1f}' class='small'>{escape(name[-18:])}</text>"
        )
    labels = (
        f"<text x='340' y='345' class='mid'>{escape(across.method)} ({escape(across.measure)})"
        f"</text><text x='14' y='165' class='mid' transform='rotate(-90 14 165)'>"
        f"{escape(up.method)} ({escape(up.measure)})</text>"
    )
    return _svg(640, 356, _frame(x, y) + labels + "".join(marks))


def _ends(score: Score) -> tuple[float, float]:
    """Where the bar of one standard error ends."""
    error = 0.0 if not math.isfinite(score.standard_error) else score.standard_error
    return score.value - error, score.value + error


def curve(points: Sequence[tuple[float, float]], *, across: str, up: str) -> str:
    """Returns an SVG of a curve through points, such as quality against units removed."""
    ordered = sorted(points)
    x, y = (_Axis([point[i] for point in ordered]) for i in (0, 1))
    at = [(80 + 520 * x(a), 300 - 270 * y(b)) for a, b in ordered]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in at)
    dots = "".join(
        f"<circle cx='{px:.1f}' cy='{py:.1f}' r='4'><title>{a:.4g}: {b:.4g}</title></circle>"
        for (px, py), (a, b) in zip(at, ordered, strict=True)
    )
    labels = (
        f"<text x='340' y='345' class='mid'>{escape(across)}</text><text x='14' y='165' "
        f"class='mid' transform='rotate(-90 14 165)'>{escape(up)}</text>"
    )
    return _svg(640, 356, _frame(x, y) + labels + f"<polyline points='{line}'/>" + dots)


def matrix(table: Table) -> str:
    """Returns an SVG of a table, darker for more; numbers are tooltips, and written if they fit."""
    values = [value for row in table.values for value in row if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    rows, columns = len(table.rows), len(table.columns)
    size = max(8.0, min(46.0, 560 / max(columns, 1)))
    cells = []
    for i, row in enumerate(table.values):
        for j, value in enumerate(row):
            shade = 0.0 if high == low or math.isnan(value) else 0.7 * (value - low) / (high - low)
            title = f"{table.rows[i]}, {table.columns[j]}: {value:.4g}"
            cells.append(
                f"<rect x='{120 + j * size:.1f}' y='{10 + i * size:.1f}' width='{size - 1:.1f}' "
                f"height='{size - 1:.1f}' style='fill:rgb(90 140 200/{shade:.2f})' class='cell'>"
                f"<title>{escape(title)}</title></rect>"
            )
            if size > 30 and not math.isnan(value):
                cells.append(
                    f"<text x='{120 + (j + 0.5) * size:.1f}' y='{14 + (i + 0.5) * size:.1f}' "
                    f"class='small mid'>{value:.2f}</text>"
                )
        cells.append(
            f"<text x='114' y='{14 + (i + 0.5) * size:.1f}' class='small end'>"
            f"{escape(table.rows[i][-18:])}</text>"
        )
    return _svg(130 + columns * size, 20 + rows * size, "".join(cells))


_WORDS = {
    "keep": "kept",
    "drop": "removed",
    "bridge": "bridged",
    "drop_attention": "attention removed",
    "drop_mlp": "MLP removed",
}


def plan_diagram(actions: Sequence[Action]) -> str:
    """Returns an SVG of all units: whole boxes stay, dashed ones go, dotted ones are bridged."""
    boxes = []
    for place, action in enumerate(actions):
        x, y = 10 + (place % 8) * 110, 10 + (place // 8) * 56
        word = _WORDS.get(action.do, action.do)
        score = "" if action.score is None else f", importance {action.score:.4g}"
        title = f"{action.unit}: {word}{score}{'; ' if action.reason else ''}{action.reason}"
        boxes.append(
            f"<g><title>{escape(title)}</title><rect x='{x}' y='{y}' width='100' height='44' "
            f"rx='5' class='unit {escape(action.do)}'/><text x='{x + 50}' y='{y + 19}' "
            f"class='small mid'>{escape(action.unit[-16:])}</text><text x='{x + 50}' "
            f"y='{y + 35}' class='small mid'>{word}</text></g>"
        )
    rows = math.ceil(len(actions) / 8)
    return _svg(900, 10 + rows * 56, "".join(boxes))


class _Axis:
    """Values to 0..1, with some room."""

    def __init__(self, values: Sequence[float]) -> None:
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.06
        self.low, self.high = low - room, high + room
        self.scale = 1 / (self.high - self.low)

    def __call__(self, value: float) -> float:
        return (value - self.low) * self.scale


def _frame(x: _Axis, y: _Axis) -> str:
    ticks = "".join(
        f"<text x='{80 + 520 * s:.0f}' y='318' class='small mid'>{x.low + s / x.scale:.3g}</text>"
        f"<text x='74' y='{304 - 270 * s:.0f}' class='small end'>{y.low + s / y.scale:.3g}</text>"
        for s in (0.0, 0.5, 1.0)
    )
    return f"<rect x='80' y='30' width='520' height='270' class='cell'/>{ticks}"


def _svg(width: float, height: float, inside: str) -> str:
    return (
        f"<svg viewBox='0 0 {width:.0f} {height:.0f}' role='img' "
        f"style='max-width:{width:.0f}px'>{inside}</svg>"
    )
