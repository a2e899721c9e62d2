"""Neurons that divide where a network is too small."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuro_morph._division import Divide, strongest
from neuro_morph._dnm_config import STRATEGIES
from neuro_morph._edit_widen import Widen
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._graph import GrowthGraph
from neuro_morph._group_statistics import GroupStatistics
from neuro_morph._morpher import Morpher


@dataclass(frozen=True)
class AdaptiveNeuronDivision:
    """Chooses the units of a group that divide, and divides them.

    A unit's score is the mean square of its gradient over examples (``"gradient_based"``), its
    variance (``"activation_based"``), or the sum of both, each over its largest (``"hybrid"``).

    Args:
        strategy: see above.
        noise: see :class:`Divide`.
        steps: see :class:`Divide`.
        growth: the part of its units that a group is given, at least one.

    Raises:
        ValueError: for a strategy that is not known, or ``growth`` not above 0.
    """

    strategy: str = "hybrid"
    noise: float = 0.1
    steps: int = 0
    growth: float = 0.25

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"strategy must be one of {', '.join(STRATEGIES)}; got {self.strategy!r}"
            )
        if not self.growth > 0.0:
            raise ValueError(f"growth must be above 0, got {self.growth!r}")

    def scores(self, statistics: GroupStatistics) -> Tensor:
        """Returns the score of each unit of a group.

        Raises:
            GrowthRefusedError: if it asks for gradients and there are none.
        """
        parts = []
        if self.strategy != "activation_based":
            if statistics.gradient_second is None:
                raise GrowthRefusedError(
                    f"{self.strategy} division of {statistics.id!r} needs gradients: hand them to "
                    "update_caches, or choose activation_based"
                )
            parts.append(statistics.gradient_second.sum(1))
        if self.strategy != "gradient_based":
            parts.append(statistics.covariance().diagonal().clamp(min=0))
        return torch.stack([_over_largest(part) for part in parts]).sum(0)

    def parents(self, statistics: GroupStatistics) -> tuple[int, ...]:
        """Returns the units that divide, the strongest first."""
        by = max(round(self.growth * statistics.size), 1)
        return strongest(self.scores(statistics), by)

    def edit(self, statistics: GroupStatistics) -> Widen:
        """Returns the edit that divides them."""
        parents = self.parents(statistics)
        init = Divide(parents, noise=self.noise, steps=self.steps)
        return Widen(statistics.id, len(parents), init)

    def divide(
        self, morpher: Morpher, statistics: GroupStatistics, *, reason: str = "asked for"
    ) -> MorphogenesisEvent:
        """Divides them and returns what was measured.

        Raises:
            GrowthRefusedError: if it cannot be done; nothing has changed then.
        """
        return morpher.apply(self.edit(statistics), reason=reason)

    def able(self, graph: GrowthGraph, group_id: str) -> bool:
        """Whether units of a group can divide: new ones that nothing reads yet are exact."""
        return Divide.way in graph.ways(graph[group_id])


def _over_largest(values: Tensor) -> Tensor:
    largest = values.max()
    return values / largest if float(largest) > 0 else values
