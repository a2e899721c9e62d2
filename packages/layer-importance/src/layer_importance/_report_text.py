"""A report as some lines of text, for a terminal."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layer_importance._report import Report

MEASURED = "layer_ablation"
ROWS = 14
"""Units that are shown at most."""
METHODS = 3
"""Columns beside the measured damage and the consensus."""
WIDTH = 100


def text(report: "Report") -> str:
    """Returns a table of the units, the least important first, and what a reader must know."""
    facts = report.facts
    head = (
        f"{facts.get('model', 'model')}, {facts.get('task', 'task')}: {len(report.units)} units, "
        f"{len(report.methods)} methods, {report.samples:,} samples"
    )
    return "\n".join(_cut(line) for line in (head, *_table(report), *_below(report)))


def _order(report: "Report") -> tuple[list[str], str]:
    """Names, the least important first, and by what."""
    names = report.units.names
    if MEASURED in report.methods:
        known, by = report.ranking(MEASURED), "measured damage"
    elif report.consensus is not None:
        known, by = report.consensus.ranking, "consensus"
    else:
        return names, "place in the model"
    return [*known, *(name for name in names if name not in known)], by


def _table(report: "Report") -> Iterator[str]:
    names, by = _order(report)
    shown = names[:ROWS]
    others = [name for name in report.methods if name != MEASURED]
    columns: list[list[str]] = [["unit", *shown]]
    sizes = {unit.name: unit.parameters for unit in report.units}
    columns.append(["parameters", *(f"{sizes[name]:,}" for name in shown)])
    if MEASURED in report.methods:
        measure = report.methods[MEASURED].measure
        columns.append([f"damage ({measure})", *_scores(report, MEASURED, shown)])
    if report.consensus is not None:
        found = report.consensus.scores
        columns.append(["consensus", *(_number(found.get(name, math.nan)) for name in shown)])
    columns += [[name, *_scores(report, name, shown)] for name in others[:METHODS]]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        first, *rest = (cell for cell in row)
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells])
    if len(names) > len(shown):
        yield f"... {len(names) - len(shown)} more units, by {by}"


def _scores(report: "Report", method: str, names: Sequence[str]) -> list[str]:
    scores = report.methods[method]
    return [
        _number(scores[name].value, scores[name].standard_error) if name in scores else "-"
        for name in names
    ]


def _number(value: float, error: float = math.nan) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3g}" if math.isnan(error) else f"{value:.3g} ± {error:.1g}"


def _below(report: "Report") -> Iterator[str]:
    if report.bottom is not None:
        yield f"race: {report.bottom['statement']}"
    more = [name for name in report.methods if name != MEASURED][METHODS:]
    if more:
        yield f"also: {', '.join(more)}"
    silent = [name for name in report.reasons if name not in report.methods]
    if silent:
        yield f"did not run, see reasons: {', '.join(silent)}"
    for note in report.notes[:2]:
        yield f"note: {note}"
    if len(report.notes) > 2:
        yield f"and {len(report.notes) - 2} more notes"


def _cut(line: str) -> str:
    line = " ".join(line.splitlines())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."
