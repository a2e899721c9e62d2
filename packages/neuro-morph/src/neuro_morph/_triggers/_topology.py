"""Units are far from one another: none could stand in for another."""

from dataclasses import dataclass
from statistics import median

import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor

from neuro_morph._arguments import check_least, check_share
from neuro_morph._triggers._trigger import Traces, Vote


def connection_lengths(covariance: Tensor, *, used: float = 0.01) -> Tensor:
    """Returns the lengths at which strongly used units become connected, in rising order.

    Units are points ``1 - |correlation|`` apart; those with less than a part ``used`` of the mean
    variance are left out. The edges of the minimum spanning tree are the lengths at which parts
    join: the persistence of the connected components. Two units that say the same are 0 apart,
    independent ones 1.

    Source: Edelsbrunner, Harer, computational topology (2010), persistence in dimension 0.
    """
    variance = covariance.diagonal()
    strong = variance > used * variance.mean()
    held = covariance[strong][:, strong]
    scale = held.diagonal().clamp(min=1e-300).rsqrt()
    apart = (1 - (held * scale[:, None] * scale).abs()).clamp(min=0)
    # edges of length 0 are no edges to the solver: all are moved by 1
    tree = minimum_spanning_tree((apart + 1).fill_diagonal_(0).cpu().numpy())
    return torch.from_numpy(tree.data - 1).clamp(min=0).sort().values


def mean_connection_length(covariance: Tensor) -> float:
    """Returns the mean of the lengths, 0 with fewer than two strongly used units."""
    lengths = connection_lengths(covariance)
    return float(lengths.mean()) if len(lengths) else 0.0


@dataclass(frozen=True)
class Topology:
    """Asks for growth when units have become as good as unrelated.

    While a layer has room, units come in families; when each has a task of its own, the lengths at
    which they become connected are near 1.

    Args:
        threshold: the mean length, of the median of the last ``window`` measurements.
        window: measurements.

    Raises:
        ValueError: if ``threshold`` is not between 0 and 1 or ``window`` below 1.
    """

    threshold: float = 0.7
    window: int = 5
    name: str = "topology"

    def __post_init__(self) -> None:
        check_share(threshold=self.threshold)
        check_least(1, window=self.window)

    def vote(self, traces: Traces) -> Vote:
        """Returns what it says of the units' relations."""
        held = traces.spread[-self.window :]
        if len(held) < self.window:
            return Vote(self.name, False, f"{len(held)} of {self.window} measurements")
        apart = median(held)
        return Vote(self.name, apart >= self.threshold, f"units are {apart:.2f} apart")
