"""What a metric is, and the table of all of them."""

from collections.abc import Callable
from dataclasses import dataclass

from neuro_morph._group_statistics import GroupStatistics


@dataclass(frozen=True)
class Metric:
    """One way to see that a group is too small.

    Attributes:
        name: what it is called.
        value: gives its value for a group, the larger the more the group needs to grow; not a
            number where it cannot be found.
        says: what it measures.
        part: the part of the statistics that it needs beside the units themselves (see
            :func:`collect_statistics`), None if it needs none.
    """

    name: str
    value: Callable[[GroupStatistics], float]
    says: str
    part: str | None = None


METRICS: dict[str, Metric] = {}


def add_metric(
    name: str, value: Callable[[GroupStatistics], float], says: str, part: str | None = None
) -> None:
    """Adds a metric to the table."""
    METRICS[name] = Metric(name, value, says, part)
