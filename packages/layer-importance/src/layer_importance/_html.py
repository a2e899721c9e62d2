"""A report as one HTML file that needs nothing but itself."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from layer_importance import _html_charts as charts
from layer_importance._plan import CompressionPlan
from layer_importance._validity import DAMAGE, MethodValidity

if TYPE_CHECKING:
    from layer_importance._report import Report

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --page: #fff; --line: #ccd3db; --soft: #5b6675; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --page: #14181e; --line: #3b4450;
  --soft: #9aa5b4; } }
body { margin: 0 auto; padding: 2rem 1.25rem; max-width: 68rem; color: var(--ink);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p, li, dd { max-width: 48rem; overflow-wrap: anywhere; } .soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; text-align: left; border-bottom: 1px solid var(--line); }
td, th.n { white-space: nowrap; } th { font-weight: 600; } .n { text-align: right; }
small { color: var(--soft); font-weight: 400; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--ink); font-size: 13px; }
svg .small { font-size: 10.5px; } svg .mid { text-anchor: middle; } svg .end { text-anchor: end; }
svg circle { fill: var(--ink); } svg .bar { stroke: var(--soft); stroke-width: 1.5; }
svg polyline { fill: none; stroke: var(--ink); stroke-width: 2; }
svg .cell { stroke: var(--line); } svg rect.cell:not([style]) { fill: none; }
svg .unit { fill: rgb(90 140 200/.25); stroke: var(--ink); stroke-width: 1.5; }
svg .drop, svg .drop_attention, svg .drop_mlp { fill: none; stroke-dasharray: 6 4; }
svg .bridge { fill: none; stroke-dasharray: 2 3; stroke-width: 2.5; }
@media print { body { max-width: none; padding: 0; print-color-adjust: exact; }
  h2 { break-after: avoid; } svg, tr { break-inside: avoid; } }
"""


def page(
    report: "Report",
    *,
    plan: CompressionPlan | None,
    curve: Sequence[tuple[float, float]] | None,
    curve_of: str,
    title: str,
) -> str:
    """Returns the whole page: no script runs, nothing is loaded, every name is escaped."""
    parts = [*_scores(report), *_validity(report), *_similar(report)]
    if plan is not None:
        parts += _plan(plan)
    if curve:
        drawn = charts.curve(curve, across="units removed", up=curve_of)
        parts += [_section(f"{curve_of.capitalize()} against units removed", drawn)]
    parts += _how(report)
    data: dict[str, Any] = {"report": report.to_dict()}
    if plan is not None:
        data["plan"] = plan.to_dict()
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p class='soft'>{escape(_lead(report))}</p>\n"
        + "\n".join(parts)
        + f"\n<script type='application/json' id='data'>{_json(data)}</script>\n</body>\n</html>\n"
    )


def _json(data: Any) -> str:
    """JSON that ends no script element."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _lead(report: "Report") -> str:
    model, task = report.facts.get("model", "a model"), report.facts.get("task", "a task")
    return (
        f"{len(report.units)} units of {model}, {task}: {len(report.methods)} methods on "
        f"{report.samples} samples in {report.batches} batches."
    )


def _section(title: str, body: str, text: str = "") -> str:
    words = f"<p>{escape(text)}</p>\n" if text else ""
    return f"<h2>{escape(title)}</h2>\n{words}<div class='wide'>{body}</div>"


def _scores(report: "Report") -> Iterable[str]:
    if not report.methods:
        return
    yield _section(
        "Importance of every unit",
        charts.heat_map(report.methods, report.units.names),
        "Values as defined, in stronger colour for more; #1 is the least of its column. Standard "
        "errors, ranks and reasons are tooltips. A diagnostic does not say what is important.",
    )
    agreed = report.consensus
    if agreed is not None:
        weights = ", ".join(f"{name} {w:.2f}" for name, w in agreed.weights.items() if w)
        order = " < ".join(agreed.ranking)
        yield _section("Consensus", f"<p>{escape(order)}</p>", f"{agreed.why}. Weights: {weights}.")
    if report.bottom is not None:
        yield _section("Units of least damage", _facts(report.bottom))


def _validity(report: "Report") -> Iterable[str]:
    found = report.validity
    rows = [[name, *_valid(v)] for name, v in found.methods.items()]
    rows.append(["depth alone: the last matters least", *_valid(found.depth)])
    if report.consensus is not None:
        rows.append(["consensus", *_valid(report.consensus.validity)])
    heads = ["method", "Spearman with damage", "given depth", "reliability", "units"]
    ceiling = "not known" if math.isnan(found.ceiling) else f"{found.ceiling:.2f}"
    yield _section(
        "How far the scores can be trusted",
        _table(heads, rows),
        f"Rank correlation with the measured damage of leaving one out, for {found.measured} "
        f"units. Noise ceiling, what measuring the damage again would achieve: {ceiling}.",
    )
    cheap = _best(report)
    if cheap is not None:
        value = found.methods[cheap].spearman if cheap in found.methods else math.nan
        yield _section(
            f"Damage against {cheap}",
            charts.scatter(report.methods[cheap], report.methods[DAMAGE], report.units.names),
            f"Spearman {_number(value)}, noise ceiling {ceiling}, depth alone "
            f"{_number(found.depth.spearman)}. Bars are one standard error.",
        )


def _best(report: "Report") -> str | None:
    """The method, other than damage itself, that follows damage best."""
    if DAMAGE not in report.methods:
        return None
    others = [
        name
        for name, scores in report.methods.items()
        if name != DAMAGE and scores.direction == "importance" and len(scores)
    ]

    def follows(name: str) -> float:
        value = report.validity.methods.get(name, MethodValidity()).spearman
        return -2.0 if math.isnan(value) else value

    return max(others, key=follows, default=None)


def _valid(found: MethodValidity) -> list[str]:
    numbers = [_number(v) for v in (found.spearman, found.partial, found.reliability)]
    return [*numbers, str(found.units)]


def _similar(report: "Report") -> Iterable[str]:
    for name, scores in report.methods.items():
        for what, table in scores.tables.items():
            if table.rows:
                yield _section(f"{name}: {what}", charts.matrix(table), "Stronger colour is more.")


def _plan(plan: CompressionPlan) -> Iterable[str]:
    heads = ["", "before", "after", "after / before"]
    rows = [
        [name, f"{value:,.6g}", f"{plan.achieved[name]:,.6g}", _share(plan.achieved[name], value)]
        for name, value in plan.before.items()
        if name in plan.achieved
    ]
    asked = ", ".join(f"{key} {value}" for key, value in plan.asked.items())
    damage = plan.damage
    text = (
        f"Asked: {asked}. Change of the loss on data held back: {damage.mean:.4g}, "
        f"{damage.confidence:.0%} interval {damage.low:.4g} to {damage.high:.4g}."
    )
    if plan.quality is not None and plan.quality_change is not None:
        after = plan.quality + plan.quality_change.mean
        rows.append(["quality", f"{plan.quality:.4g}", f"{after:.4g}", _share(after, plan.quality)])
    text_of = "Whole boxes stay, dashed ones are removed, dotted ones bridged."
    yield _section("Plan", charts.plan_diagram(plan.actions), f"{text} {text_of}")
    yield _section("Before and after", _table(heads, rows))
    if plan.notes:
        yield _items(plan.notes)


def _how(report: "Report") -> Iterable[str]:
    yield _section("Which methods ran, and why", _facts(report.reasons))
    if report.units.refused:
        yield _section("What is no unit", _facts(report.units.refused))
    if report.notes:
        yield f"<h2>Notes</h2>\n{_items(report.notes)}"
    yield _section("Facts", _facts(report.facts))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        first, *others = row
        numbers = "".join(f"<{tag} class='n'>{escape(cell)}</{tag}>" for cell in others)
        return f"<tr><th>{escape(first)}</th>{numbers}</tr>\n"

    body = "".join(cells(row, "td") for row in rows)
    return f"<table><thead>{cells(heads, 'th')}</thead><tbody>{body}</tbody></table>"


def _facts(values: Mapping[str, Any]) -> str:
    return _table(["", ""], [[str(name), str(value)] for name, value in values.items()])


def _items(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _share(after: float, before: float) -> str:
    return "–" if not before else f"{after / before:.3f}"
