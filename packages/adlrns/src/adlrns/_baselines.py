"""What an elastic model is compared with: plain SVD, and the same rank share everywhere."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from adlrns_models import (
    AdaptiveLayer,
    ElasticModel,
    LayerProfile,
    iter_adaptive_layers,
    materialize_model,
    wrap_model_with_adaptive,
)
from rank_sched import OperatingPoint

Chooser = Callable[..., OperatingPoint]


@dataclass(frozen=True)
class Tables:
    """Loss and FLOPs of every layer at every rank worth running, as `rank_sched` reads them."""

    losses: dict[str, np.ndarray]
    costs: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]

    def choose(self, chooser: Chooser, share: float) -> OperatingPoint:
        """Returns the chooser's point within a share of the dense FLOPs."""
        full = sum(float(costs[-1]) for costs in self.costs.values())
        return chooser(self.losses, self.costs, share * full, ranks=self.ranks)


def tables(profiles: Mapping[str, LayerProfile], curves: Mapping[str, np.ndarray]) -> Tables:
    """Returns the tables of layers with these sizes and loss curves `[full rank + 1]`."""
    found = Tables({}, {}, {})
    for name, profile in profiles.items():
        m, n, rows = profile.size
        full = profile.size.max_rank
        ranks = np.array([*(r for r in range(1, full) if r * (m + n) < m * n), full])
        weights = np.append(ranks[:-1] * (m + n), m * n)  # full rank runs as the dense weight
        found.losses[name], found.ranks[name] = np.asarray(curves[name])[ranks], ranks
        found.costs[name] = 2.0 * rows * profile.groups * weights
    return found


class PlainSvd:
    """The network with its weights cut by singular value, blind to the data.

    Attributes:
        network: its layers hold all singular directions, ordered by their value.
        tables: loss curves of white inputs, the tail sums of squared singular values.
    """

    def __init__(self, model: nn.Module, profiles: Mapping[str, LayerProfile]):
        largest = max(profile.size.max_rank for profile in profiles.values())
        self.network = wrap_model_with_adaptive(copy.deepcopy(model), r_min=0, r_max=largest).eval()
        for layer in iter_adaptive_layers(self.network):
            layer.enable_adaptation(False)
        layers: dict[str, Any] = dict(self.network.named_modules())  # attention is open here
        curves = {name: _singular_tail(layers[name]) for name in profiles}
        self.tables = tables(profiles, curves)

    def at(self, point: OperatingPoint) -> nn.Module:
        """Returns plain layers at the ranks of a point: two factors, or dense at full rank."""
        return materialize_model(self.ranked(point), "factored")

    def ranked(self, point: OperatingPoint) -> nn.Module:
        """Returns a copy of the network at the ranks of a point."""
        network = copy.deepcopy(self.network)
        for name, rank in point.ranks.items():
            network.get_submodule(name).set_rank(rank)  # type: ignore[operator]
        return network


def _singular_tail(layer: AdaptiveLayer) -> np.ndarray:
    """Returns the energy of the directions beyond each rank, of a layer fresh from its weight."""
    down = layer.down.detach().double().reshape(layer.groups, layer.max_rank, -1)
    energy = down.square().sum((0, 2))  # rows of down: singular vectors times singular values
    return np.append(energy.flip(0).cumsum(0).flip(0).numpy(), 0.0)


def data_aware(elastic: ElasticModel) -> Tables:
    """Returns the tables of an elastic model's own loss curves."""
    curves = {name: np.asarray(profile.loss) for name, profile in elastic.profiles.items()}
    return tables(elastic.profiles, curves)


def elastic_at(elastic: ElasticModel, point: OperatingPoint) -> ElasticModel:
    """Returns a copy of an elastic model at the ranks of a point."""
    moved = copy.deepcopy(elastic)
    moved.set_ranks(point.ranks)
    return moved
