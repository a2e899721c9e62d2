"""How much a unit changes at which scales its samples hang together."""

from typing import ClassVar

import torch
from torch import Tensor

from layer_importance._branch import pooled
from layer_importance._events import UnitEvent
from layer_importance._keyed import KeyedMethod, Kinds
from layer_importance._samples import Sample
from layer_importance._scores import MethodScores, Score
from layer_importance._subject import Subject
from layer_importance._topology import neural_persistence, relative_deaths, transport
from layer_importance._weights import matrices

_GROUPS = 8


class TopologyAnalysis(KeyedMethod):
    """Change of the connected components from what goes in to what comes out: ``W_1(D(x), D(y))``.

    ``D`` are the scales at which the components of ``samples`` points merge (the bars of zero
    dimensional persistent homology, exact by a minimum spanning tree), over the median distance of
    two points; ``W_1`` is their 1-Wasserstein distance, a bar. A point is the mean of a sample's
    tokens. 0 if the unit moves, turns or scales the points as one, or renames them. The standard
    error is a jackknife over eight groups of points.

    Columns beside it: ``persistence``, the mean bar of what comes out, and ``persistence_change``,
    how much longer it is than that of what goes in; ``neural_persistence`` of the weights, mean
    over the unit's matrices, 0 for equal weights and near 1 for weights of which few are large.
    Loops and voids are not looked at.

    Source: components through depth: Naitzat et al., arXiv 2004.06093; weights: Rieck et al., arXiv
    1812.09764.

    Args:
        samples: how many points, drawn by content.
    """

    name = "topology_analysis"
    kinds: ClassVar[Kinds] = {"x": Sample, "y": Sample}

    def __init__(self, *, samples: int = 128) -> None:
        super().__init__()
        self.samples = samples
        self._weights: dict[str, float] = {}

    def begin(self, subject: Subject) -> None:
        """Reads the weights."""
        super().begin(subject)
        means: dict[str, float] = {}
        for unit in subject.units:
            if unit.path not in means:
                found = [neural_persistence(W) for _, W in matrices(subject.module(unit))]
                means[unit.path] = sum(found) / len(found) if found else float("nan")
            self._weights[unit.name] = means[unit.path]

    def read(self, event: UnitEvent) -> None:
        """Offers the samples of a batch."""
        for side in ("x", "y"):
            sample = self.kept(event.unit.name, side, lambda: Sample(self.samples))
            sample.add(self._sample_keys, pooled(event, side))

    def scores(self) -> MethodScores:
        """Distances of bars, and what else is known of them."""
        scores: dict[str, Score] = {}
        extras: dict[str, dict[str, float]] = {"persistence": {}, "persistence_change": {}}
        missing: dict[str, str] = {}
        ys = self.found("y")
        for name, x in self.found("x").items():
            y = ys[name]
            if len(x) < 3 or not torch.equal(x.keys, y.keys):
                missing[name] = f"needs at least 3 samples with finite streams, got {len(x)}"
                continue
            before, behind = relative_deaths(x.rows), relative_deaths(y.rows)
            scores[name] = Score(transport(before, behind), _error(x.rows, y.rows), len(x))
            extras["persistence"][name] = float(behind.mean())
            extras["persistence_change"][name] = float(behind.mean() - before.mean())
        known = {name: value for name, value in self._weights.items() if value == value}
        return self.result(scores, {**extras, "neural_persistence": known}, missing)


def _error(x: Tensor, y: Tensor) -> float:
    """Standard error by leaving out each of eight groups of points."""
    if len(x) < 2 * _GROUPS:
        return float("nan")
    places = torch.arange(len(x)) % _GROUPS
    values = torch.tensor(
        [
            transport(*(relative_deaths(points[places != group]) for points in (x, y)))
            for group in range(_GROUPS)
        ]
    )
    spread = (values - values.mean()).square().sum()
    return float((spread * (_GROUPS - 1) / _GROUPS).sqrt())
