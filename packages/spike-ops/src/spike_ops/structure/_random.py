"""Connections drawn independently, or a fixed number for every neuron."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops.structure._base import Structure, check_share, check_sizes, drawing


@dataclass(frozen=True)
class RandomConnections(Structure):
    """Return connections that exist with probability p, independently of each other.

    Args:
        p: Probability of a connection.
        self_connections: Allow neuron i to connect to neuron i (of recurrent weights).
        seed: Seed.

    Raises:
        ValueError: p is no probability.

    Example:
        >>> RandomConnections(1.0, self_connections=False).mask(2, 2)
        tensor([[False,  True],
                [ True, False]])
    """

    p: float = 0.1
    self_connections: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("p", self.p)

    def mask(self, out_features: int, in_features: int) -> Tensor:
        """Return the mask [out, in]."""
        check_sizes(out_features, in_features)
        drawn = torch.rand(out_features, in_features, generator=drawing(self.seed))
        mask = drawn < self.p
        return mask if self.self_connections else mask.fill_diagonal_(False)


@dataclass(frozen=True)
class FixedInDegree(Structure):
    """Return connections so that every neuron receives from exactly k others, chosen uniformly.

    Args:
        degree: k.
        self_connections: Allow neuron i to connect to neuron i.
        seed: Seed.

    Raises:
        ValueError: k is negative, or there are fewer neurons than that to receive from.

    Example:
        >>> FixedInDegree(3).mask(4, 10).sum(1)
        tensor([3, 3, 3, 3])
    """

    degree: int = 10
    self_connections: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.degree < 0:
            raise ValueError(f"degree must be at least 0, got {self.degree}")

    def mask(self, out_features: int, in_features: int) -> Tensor:
        """Return the mask [out, in]."""
        check_sizes(out_features, in_features)
        most = in_features if self.self_connections else in_features - 1
        if self.degree > most:
            raise ValueError(f"degree must be at most {most} of {in_features}, got {self.degree}")
        drawn = torch.rand(out_features, in_features, generator=drawing(self.seed))
        if not self.self_connections:
            drawn.fill_diagonal_(2.0)
        chosen = drawn.argsort(1)[:, : self.degree]
        mask = torch.zeros(out_features, in_features, dtype=torch.bool)
        return mask.scatter_(1, chosen, True)
