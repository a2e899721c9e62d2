"""Growth groups as a table to read."""

from collections.abc import Iterable, Sequence

from neuro_morph._groups import GrowthGroup

_HEAD = ("group", "units", "cost", "made by", "read by", "ways, or why not")
_SHOWN = 2  # names in one cell
# what is asked for by ``Widen(..., init=)`` in each way
INITS = {
    "free": "ZeroFanOut()",
    "copy": "Split()",
    "equal": "Duplicate()",
    "masked": "ZeroFanOut('masked')",
}


def table_of(groups: Iterable[tuple[GrowthGroup, Sequence[str]]], coverage: float) -> str:
    """Returns a table of groups with the ways in which they grow, and the coverage below.

    Between them stands what to ask :class:`Widen` for in each way.
    """
    listed = list(groups)
    rows = [_HEAD, *(_row(group, ways) for group, ways in listed)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(_HEAD) - 1)]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "-+-".join("-" * width for width in [*widths, len(_HEAD[-1])]))
    found = {way for group, ways in listed if group.growable for way in ways}
    asked = ", ".join(f"{way} is init={init}" for way, init in INITS.items() if way in found)
    lines += [asked] if asked else []
    return "\n".join([*lines, f"{coverage:.1%} of the parameters are in a group that can grow"])


def _row(group: GrowthGroup, ways: Sequence[str]) -> tuple[str, ...]:
    return (
        group.id,
        str(group.size),
        str(group.unit_cost),
        _names(group.producers),
        _names(group.consumers),
        ", ".join(ways) if ways else str(group.reason),
    )


def _names(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" +{len(distinct) - _SHOWN}" if len(distinct) > _SHOWN else ""
    return ", ".join(distinct[:_SHOWN]) + more or "-"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = zip(row[:-1], widths, (False, True, True, False, False), strict=True)
    padded = [cell.rjust(w) if number else cell.ljust(w) for cell, w, number in cells]
    return " | ".join([*padded, row[-1]])
