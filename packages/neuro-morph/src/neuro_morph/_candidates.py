"""What could be grown next, the likeliest to help first."""

from collections.abc import Mapping

from neuro_morph._edit_widen import Widen
from neuro_morph._graph import GrowthGraph
from neuro_morph._group_statistics import Statistics
from neuro_morph._groups import GrowthGroup
from neuro_morph._initial import Duplicate, Split, UnitInit, ZeroFanOut
from neuro_morph._score import DEFAULT_WEIGHTS, scores_of


def widenings(
    graph: GrowthGraph,
    statistics: Statistics,
    *,
    growth: float = 0.25,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    init: UnitInit | None = None,
) -> list[Widen]:
    """Returns a widening of every group that can grow, by falling score.

    Groups of which nothing was measured stand last.

    Args:
        graph: the growth graph.
        statistics: what was measured of the model as it is.
        growth: the part of its units that a group is given, at least one unit.
        weights: of the metrics.
        init: how units begin where that is possible; None for zero columns, a split where there
            are no such, and all units twice where only that is exact.

    Raises:
        ValueError: if ``growth`` is not above 0.
    """
    if not growth > 0.0:
        raise ValueError(f"growth must be above 0, got {growth!r}")
    ranked = [name for name in scores_of(statistics, weights) if graph[name].growable]
    rest = [g.id for g in graph if g.growable and g.id not in ranked]
    found = (
        widening_of(graph, graph[name], max(round(growth * graph[name].size), 1), init)
        for name in [*ranked, *rest]
    )
    return [edit for edit in found if edit is not None]


def widening_of(
    graph: GrowthGraph, group: GrowthGroup, by: int, init: UnitInit | None
) -> Widen | None:
    """Returns a widening of a group in the best way that is exact, None if there is none.

    Args:
        graph: the growth graph.
        group: the group.
        by: how many units are added; the nearest multiple of all of them where only that is exact.
        init: how units begin where that is possible (see :func:`widenings`).
    """
    ways = graph.ways(group)
    choices: list[tuple[UnitInit, int]] = [(ZeroFanOut(), by), (Split(), by)]
    choices.append((Duplicate(), group.size * max(round(by / group.size), 1)))
    for chosen, count in [(init, by), *choices] if init is not None else choices:
        if chosen.way in ways:
            return Widen(group.id, count, chosen)
    return None
