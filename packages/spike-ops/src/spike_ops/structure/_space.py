"""Connections that depend on how far apart neurons are."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops.structure._base import Structure, check_share, check_sizes, drawing


@dataclass(frozen=True)
class DistanceDependent(Structure):
    """Return connections on a grid whose probability falls with distance: p(d) = p₀ e^(-d/λ).

    Neurons stand on a grid in the order of its flattened axes, one cell apart. Neurons before the
    weight may stand on another grid over the same area.

    Args:
        grid: Sizes of the grid of receiving neurons, such as (28, 28).
        p0: p₀, the probability at distance 0.
        length: λ in cells.
        source: The grid of the neurons before the weight; None for the same grid.
        periodic: Let the area's opposite edges touch.
        self_connections: Allow neuron i to connect to neuron i.
        velocity: Cells that a spike travels in a step: delays are d / velocity steps, rounded, at
            least 1. None says nothing of delays.
        seed: Seed.

    Raises:
        ValueError: An argument is outside its range, or sizes asked for are not those of the grids.

    Example:
        >>> DistanceDependent((3,), p0=1.0, length=math.inf, velocity=0.5).delays(3, 3)
        tensor([[1, 2, 4],
                [2, 1, 2],
                [4, 2, 1]])
    """

    grid: tuple[int, ...]
    p0: float = 1.0
    length: float = 2.0
    source: tuple[int, ...] | None = None
    periodic: bool = False
    self_connections: bool = True
    velocity: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("p0", self.p0)
        if not self.length > 0:
            raise ValueError(f"length must be positive, got {self.length}")
        if self.velocity is not None and not self.velocity > 0:
            raise ValueError(f"velocity must be positive, got {self.velocity}")
        if self.source is not None and len(self.source) != len(self.grid):
            raise ValueError(f"source must have {len(self.grid)} axes, got {self.source}")
        if not self.grid or min(*self.grid, *(self.source or self.grid)) < 1:
            raise ValueError(f"grids must have positive sizes, got {self.grid}, {self.source}")

    def distances(self) -> Tensor:
        """Return how far apart neurons are, in cells of `grid`: [out, in] of float64."""
        source = self.source or self.grid
        squares = torch.zeros(math.prod(self.grid), math.prod(source), dtype=torch.float64)
        # every axis alone, at its place among the others
        for axis, (size, count) in enumerate(zip(self.grid, source, strict=True)):
            there = (torch.arange(count, dtype=torch.float64) + 0.5) * size / count - 0.5
            apart = (torch.arange(size, dtype=torch.float64)[:, None] - there).abs()
            apart = torch.minimum(apart, size - apart) if self.periodic else apart
            rows, columns = _places(self.grid, axis), _places(source, axis)
            squares += apart[rows][:, columns].square()
        return squares.sqrt()

    def mask(self, out_features: int, in_features: int) -> Tensor:
        """Return the mask [out, in]."""
        self._check(out_features, in_features)
        chance = self.p0 * torch.exp(-self.distances() / self.length)
        drawn = torch.rand(chance.shape, generator=drawing(self.seed), dtype=torch.float64)
        mask = drawn < chance
        return mask if self.self_connections else mask.fill_diagonal_(False)

    def delays(self, out_features: int, in_features: int) -> Tensor | None:
        """Return delays in steps [out, in]; None without a velocity."""
        self._check(out_features, in_features)
        if self.velocity is None:
            return None
        return (self.distances() / self.velocity).round().long().clamp_(min=1)

    def _check(self, out_features: int, in_features: int) -> None:
        check_sizes(out_features, in_features)
        needed = math.prod(self.grid), math.prod(self.source or self.grid)
        if (out_features, in_features) != needed:
            got = f"{out_features} and {in_features}"
            raise ValueError(
                f"sizes must be those of the grids, {needed[0]} and {needed[1]}: {got}"
            )


def _places(grid: tuple[int, ...], axis: int) -> Tensor:
    """Return the coordinate of every cell along an axis: [cells]."""
    shape = [1] * len(grid)
    shape[axis] = grid[axis]
    return torch.arange(grid[axis]).reshape(shape).expand(grid).flatten()
