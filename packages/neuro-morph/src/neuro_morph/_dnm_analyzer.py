"""Which groups of a network are too small, as far as a training loop's caches show."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from torch import nn

from neuro_morph._dnm_caches import LayerCaches
from neuro_morph._dnm_config import BOTTLENECK_METRICS
from neuro_morph._dnm_statistics import statistics_of_caches
from neuro_morph._graph import GrowthGraph
from neuro_morph._group_statistics import GroupStatistics, Statistics
from neuro_morph._inputs import ExampleInputs
from neuro_morph._metrics import METRICS
from neuro_morph._metrics._information_flow import target_alignment
from neuro_morph._score import _scaled


@dataclass(frozen=True)
class LayerPerformanceAnalyzer:
    """Scores the groups of a network by how much they need to grow.

    Each metric is divided by its largest size over all groups, and those asked for are added up.
    ``information_flow`` is the part of a layer's input that cannot be found in its units, or where
    its input was not cached one less the units' alignment with the targets; the others are those
    of the metrics' table.

    Args:
        metrics: the metrics that count: ``"gradient_variance"``, ``"activation_diversity"``,
            ``"information_flow"``, ``"performance_sensitivity"``.

    Raises:
        ValueError: for a metric that is not known, or none.
    """

    metrics: Sequence[str] = BOTTLENECK_METRICS

    def __post_init__(self) -> None:
        wrong = [name for name in self.metrics if name not in BOTTLENECK_METRICS]
        if wrong or not self.metrics:
            known = ", ".join(BOTTLENECK_METRICS)
            raise ValueError(f"metrics must be among {known}; got {list(self.metrics)!r}")

    def measure(
        self, model: nn.Module, graph: GrowthGraph, inputs: ExampleInputs, caches: LayerCaches
    ) -> Statistics:
        """Returns what the caches show of every group (see :class:`LayerCaches`)."""
        return statistics_of_caches(model, graph, inputs, caches)

    def analyze(self, statistics: Statistics) -> dict[str, dict[str, float]]:
        """Returns the value of every metric for every group, by group and metric.

        It is not a number where it cannot be found: without gradients, without inputs or targets.
        """
        return {
            group: {name: _value(name, held) for name in self.metrics}
            for group, held in statistics.groups.items()
        }

    def scores(self, statistics: Statistics) -> dict[str, float]:
        """Returns the score of every group, the best first; of equals the one that is known best.

        A value that cannot be found is taken as the lowest there is.
        """
        values = self.analyze(statistics)
        total = dict.fromkeys(values, 0.0)
        for name in self.metrics:
            found = _scaled({group: each[name] for group, each in values.items()})
            for group, value in found.items():
                total[group] += value
        unknown = {group: sum(map(isnan, each.values())) for group, each in values.items()}
        return {g: total[g] for g in sorted(total, key=lambda g: (-total[g], unknown[g]))}


def _value(name: str, held: GroupStatistics) -> float:
    found = METRICS[name].value(held)
    if name == "information_flow" and isnan(found):
        return 1.0 - target_alignment(held)
    return found
