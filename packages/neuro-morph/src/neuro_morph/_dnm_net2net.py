"""A network made wider, deeper or connected, computing what it did."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from neuro_morph._edit_connect import Connect
from neuro_morph._edit_deepen import Deepen
from neuro_morph._edit_widen import Widen
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._graph import GrowthGraph
from neuro_morph._groups import GrowthGroup
from neuro_morph._initial import Split
from neuro_morph._morpher import Morpher


class DNMNet2Net:
    """Makes any network wider, deeper or connected in one call each, so that it computes the same.

    Args:
        model: any module.
        example_inputs: what it is called with (see :class:`Morpher`).
        optimizer: what trains it, or several; None for none.
        morpher: a run to work on instead; then nothing else but the model is looked at.

    Raises:
        TypeError: see :class:`Morpher`.

    Example:
        >>> import torch
        >>> from neuro_morph import DNMNet2Net
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        ... )
        >>> net = DNMNet2Net(model, torch.ones(1, 4))
        >>> net.wider("0", by=2).parameters_added, net.deeper("1").parameters_added
        (14, 110)
        >>> net.skip("0", "2").relative_change
        0.0

    Source: Chen, Goodfellow, Shlens, Net2Net (arXiv:1511.05641).
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any = None,
        *,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        morpher: Morpher | None = None,
    ) -> None:
        self.morpher = morpher or Morpher(model, optimizer, example_inputs=example_inputs)

    def wider(self, layer: str, by: int, *, share: float = 0.3) -> MorphogenesisEvent:
        """Gives a layer more units, copies of old ones that take over a share of their columns.

        Args:
            layer: a layer, or a growth group.
            by: how many units are added.
            share: see :class:`Split`.

        Raises:
            KeyError: if no units of that name can grow.
            GrowthRefusedError: if it cannot be done; nothing has changed then.
        """
        group = group_of(self.morpher.graph, layer)
        return self.morpher.apply(Widen(group.id, by, Split(share)))

    def deeper(self, after: str, **settings: Any) -> MorphogenesisEvent:
        """Puts a layer behind another (see :class:`Deepen`, which ``settings`` are of).

        Raises:
            GrowthRefusedError: if it cannot be done; nothing has changed then.
        """
        return self.morpher.apply(Deepen(after, **settings))

    def skip(self, source: str, target: str, **settings: Any) -> MorphogenesisEvent:
        """Connects two layers (see :class:`Connect`, which ``settings`` are of).

        Raises:
            GrowthRefusedError: if it cannot be done; nothing has changed then.
        """
        return self.morpher.apply(Connect(source, target, **settings))


def group_of(graph: GrowthGraph, layer: str) -> GrowthGroup:
    """Returns the growth group of a name, or the one whose units a layer of that name makes.

    Raises:
        KeyError: if there is none.
    """
    for group in graph:
        if any(name.rpartition(".")[0] == layer for name in group.producers):
            return group
    return graph[layer]
