"""Graphs between order and chance: small worlds and hubs. Symmetric, without loops."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops.structure._base import Structure, check_share, check_sizes, drawing


@dataclass(frozen=True)
class SmallWorld(Structure):
    """Return a ring where each neuron knows its k nearest, each edge rewired with probability p.

    A few rewired edges make all paths short while neighbours still know each other. There are
    exactly N k / 2 edges; the mask is symmetric.

    Args:
        neighbours: k, even.
        p: Probability that an edge's far end moves to a neuron chosen uniformly.
        seed: Seed.

    Raises:
        ValueError: k is odd or below 2, p is no probability, or the ring is not longer than k.

    Source: D. Watts, S. Strogatz, "Collective dynamics of 'small-world' networks", Nature 1998.

    Example:
        >>> SmallWorld(2, 0.0).mask(4, 4).int()
        tensor([[0, 1, 0, 1],
                [1, 0, 1, 0],
                [0, 1, 0, 1],
                [1, 0, 1, 0]], dtype=torch.int32)
    """

    neighbours: int = 4
    p: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.neighbours < 2 or self.neighbours % 2:
            raise ValueError(f"neighbours must be even and at least 2, got {self.neighbours}")
        check_share("p", self.p)

    def mask(self, out_features: int, in_features: int) -> Tensor:
        """Return the mask [N, N]."""
        check_sizes(out_features, in_features, square="SmallWorld")
        size, drawn = out_features, drawing(self.seed)
        if size <= self.neighbours:
            raise ValueError(f"neighbours must be below the size {size}, got {self.neighbours}")
        here = torch.arange(size)
        mask = torch.zeros(size, size, dtype=torch.bool)
        for step in range(1, self.neighbours // 2 + 1):
            there = (here + step) % size
            mask[here, there] = mask[there, here] = True
        for step in range(1, self.neighbours // 2 + 1):
            for i in (torch.rand(size, generator=drawn) < self.p).nonzero().flatten().tolist():
                _move_edge(mask, i, (i + step) % size, drawn)
        return mask


@dataclass(frozen=True)
class ScaleFree(Structure):
    """Return a graph grown by preference: new neurons connect to m old ones, to hubs most often.

    Degrees follow P(k) ~ k⁻³, with none below m. The graph begins with m + 1 neurons that all know
    each other and has exactly m (m + 1) / 2 + m (N - m - 1) edges; the mask is symmetric.

    Args:
        edges: m.
        seed: Seed.

    Raises:
        ValueError: m is below 1, or the size is not above m.

    Source: A.-L. Barabási, R. Albert, "Emergence of Scaling in Random Networks", Science 1999.

    Example:
        >>> int(ScaleFree(2).mask(50, 50).sum()) // 2
        97
    """

    edges: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.edges < 1:
            raise ValueError(f"edges must be at least 1, got {self.edges}")

    def mask(self, out_features: int, in_features: int) -> Tensor:
        """Return the mask [N, N]."""
        check_sizes(out_features, in_features, square="ScaleFree")
        size, first, drawn = out_features, self.edges + 1, drawing(self.seed)
        if size < first:
            raise ValueError(f"edges must be below the size {size}, got {self.edges}")
        mask = torch.zeros(size, size, dtype=torch.bool)
        mask[:first, :first] = ~torch.eye(first, dtype=torch.bool)
        degrees = mask.sum(1).double()
        for new in range(first, size):
            known = torch.multinomial(degrees[:new], self.edges, generator=drawn)
            mask[new, known] = mask[known, new] = True
            degrees[known] += 1
            degrees[new] = self.edges
        return mask


def _move_edge(mask: Tensor, i: int, far: int, drawn: torch.Generator) -> None:
    """Move the far end of an edge to a neuron that i does not know yet, if there is one."""
    free = ~mask[i]
    free[i] = False
    choices = free.nonzero().flatten()
    if not len(choices):
        return
    chosen = int(choices[torch.randint(len(choices), (), generator=drawn)])
    mask[i, far] = mask[far, i] = False
    mask[i, chosen] = mask[chosen, i] = True
