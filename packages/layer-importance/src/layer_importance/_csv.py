"""A report as CSV: one row a unit and method."""

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layer_importance._report import Report

COLUMNS = (
    "unit",
    "path",
    "type",
    "parameters",
    "method",
    "direction",
    "value",
    "standard_error",
    "measure",
    "samples",
    "rank",
    "missing",
)


def rows(report: "Report") -> str:
    """Returns one line for each unit and method, rank 1 for the least, under a line of names."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(COLUMNS)
    for name, scores in report.methods.items():
        ranks = {unit: place for place, unit in enumerate(report.ranking(name), 1)}
        for unit in report.units:
            about = [unit.name, unit.path, unit.type_name, unit.parameters, name, scores.direction]
            if unit.name in scores:
                score = scores[unit.name]
                found = [repr(score.value), repr(score.standard_error), _inert(scores.measure)]
                out.writerow([*map(_inert, about), *found, score.samples, ranks[unit.name], ""])
            else:
                why = scores.missing.get(unit.name, "")
                out.writerow(
                    [*map(_inert, about), "", "", _inert(scores.measure), 0, "", _inert(why)]
                )
    return text.getvalue()


def _inert(value: object) -> object:
    """A name that a spreadsheet takes for no formula."""
    starts = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if starts else value
