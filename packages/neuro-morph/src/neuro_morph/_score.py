"""Groups ranked by how much they seem to need growth."""

from collections.abc import Mapping
from math import isfinite

from neuro_morph._arguments import check_kind
from neuro_morph._group_statistics import Statistics
from neuro_morph._metrics import METRICS

DEFAULT_WEIGHTS: Mapping[str, float] = {"tiny_gain": 1.0, "performance_sensitivity": 0.0}


def scores_of(
    statistics: Statistics, weights: Mapping[str, float] = DEFAULT_WEIGHTS
) -> dict[str, float]:
    """Returns the score of every group, the best first.

    Each metric is divided by its largest size over all groups, so that its best has 1, and the
    weighted sum is taken. A group without a value of a metric has the lowest there is.

    Args:
        statistics: what was measured.
        weights: how much each metric counts, by name (see ``METRICS``).

    Raises:
        ValueError: for an unknown metric, a weight that is no finite number, or statistics that
            were collected without what a metric needs.
    """
    check_kind(Statistics, statistics=statistics)
    check_weights(weights)
    missing = parts_of(weights) - statistics.parts
    if missing:
        raise ValueError(f"the statistics have no {', '.join(sorted(missing))}: see their parts")
    total = dict.fromkeys(statistics.groups, 0.0)
    for name, weight in weights.items():
        for group, value in _scaled(metric_values(statistics, name)).items() if weight else ():
            total[group] += weight * value
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises ValueError for an unknown metric, or a weight that is no finite number."""
    for name, weight in weights.items():
        if name not in METRICS:
            known = ", ".join(METRICS)
            raise ValueError(f"weights must be of metrics among {known}; got {name!r}")
        if not isfinite(weight):
            raise ValueError(f"the weight of {name!r} must be finite, got {weight!r}")


def parts_of(weights: Mapping[str, float] = DEFAULT_WEIGHTS) -> frozenset[str]:
    """Returns the parts of the statistics that a score needs (see :func:`collect_statistics`)."""
    counted = (METRICS[name].part for name, weight in weights.items() if weight)
    return frozenset(part for part in counted if part is not None)


def metric_values(statistics: Statistics, name: str) -> dict[str, float]:
    """Returns a metric's value for every group."""
    return {key: METRICS[name].value(group) for key, group in statistics.groups.items()}


def _scaled(values: dict[str, float]) -> dict[str, float]:
    known = [v for v in values.values() if isfinite(v)]
    largest = max((abs(v) for v in known), default=0.0) or 1.0
    lowest = min(known, default=0.0)
    return {k: (v if isfinite(v) else _end(v, known, lowest)) / largest for k, v in values.items()}


def _end(value: float, known: list[float], lowest: float) -> float:
    return max(known, default=1.0) if value == float("inf") else lowest
