"""Surrogates whose derivative is zero outside a window, and those whose primitive is linear."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops.surrogate._base import Surrogate


@dataclass(frozen=True)
class PiecewiseQuadratic(Surrogate):
    """Return spikes with the derivative σ'(u) = max(0, α - α² |u|): a triangle of area 1.

    Source: S. Esser et al., "Convolutional networks for fast, energy-efficient neuromorphic
    computing", PNAS 2016.

    Args:
        alpha: Height α > 0; the window is |u| < 1 / α.

    Example:
        >>> PiecewiseQuadratic(alpha=2.0).derivative(torch.tensor([0.0, 0.25, 1.0]))
        tensor([2., 1., 0.])
    """

    alpha: float = 1.0
    spike_out: bool = False
    spiking: bool = True
    _positive = ("alpha",)

    @property
    def support(self) -> float:
        """1 / α."""
        return 1 / self.alpha

    def derivative(self, u: Tensor) -> Tensor:
        """Return max(0, α - α² |u|)."""
        return (self.alpha - self.alpha**2 * u.abs()).clamp(min=0)

    def primitive(self, u: Tensor) -> Tensor:
        """Return 1/2 + αu - α²u|u| / 2 in the window, 0 below and 1 above."""
        z = (self.alpha * u).clamp(-1, 1)
        return 0.5 + z - z * z.abs() / 2


@dataclass(frozen=True)
class LeakyRectangular(Surrogate):
    """Return spikes with a window over a small constant as derivative.

        σ'(u) = c for |u| < w, else `leak`

    Args:
        width: w > 0.
        height: c.
        leak: Derivative outside the window; with 0 this is compact.

    Example:
        >>> LeakyRectangular(width=1.0, height=1.0).derivative(torch.tensor([0.5, 2.0]))
        tensor([1.0000, 0.0100])
    """

    width: float = 1.0
    height: float = 1.0
    leak: float = 0.01
    spike_out: bool = False
    spiking: bool = True
    _positive = ("width", "height")
    _not_negative = ("leak",)

    @property
    def support(self) -> float | None:
        """The width where nothing leaks, else None."""
        return None if self.leak else self.width

    def derivative(self, u: Tensor) -> Tensor:
        """Return c in the window, `leak` outside."""
        return self.leak + (self.height - self.leak) * (u.abs() < self.width).to(u.dtype)

    def primitive(self, u: Tensor) -> Tensor:
        """Return the integral from -w: slope c in the window, `leak` outside."""
        return self.leak * u + (self.height - self.leak) * u.clamp(-self.width, self.width) + 0.5


@dataclass(frozen=True)
class StraightThrough(Surrogate):
    """Return spikes whose gradient passes as it is: σ'(u) = 1.

    Source: Y. Bengio, N. Léonard and A. Courville, "Estimating or Propagating Gradients Through
    Stochastic Neurons for Conditional Computation", 2013.

    Example:
        >>> StraightThrough().derivative(torch.tensor([-7.0, 7.0]))
        tensor([1., 1.])
    """

    spike_out: bool = False
    spiking: bool = True

    def derivative(self, u: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(u)

    def primitive(self, u: Tensor) -> Tensor:
        """Return u + 1 / 2."""
        return u + 0.5


@dataclass(frozen=True)
class LeakySpike(Surrogate):
    """Return spikes with the derivative of a leaky rectifier: 1 where u >= 0, else `slope`.

    Args:
        slope: Derivative below the threshold, in 0 to 1.

    Example:
        >>> LeakySpike(0.1).derivative(torch.tensor([-1.0, 1.0]))
        tensor([0.1000, 1.0000])
    """

    slope: float = 0.1
    spike_out: bool = False
    spiking: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.slope <= 1:
            raise ValueError(f"slope must be in 0..1, got {self.slope}")

    def derivative(self, u: Tensor) -> Tensor:
        """Return 1 or the slope."""
        return torch.where(u >= 0, torch.ones_like(u), self.slope * torch.ones_like(u))

    def primitive(self, u: Tensor) -> Tensor:
        """Return u or slope · u."""
        return torch.where(u >= 0, u, self.slope * u)


@dataclass(frozen=True)
class SparseFastSigmoid(Surrogate):
    """Return spikes with the fast sigmoid's derivative inside a window alone.

        σ'(u) = 1 / (1 + k |u|)² for |u| < b, else 0

    Most gradients are zero then. Source: N. Perez-Nieves and D. Goodman, "Sparse Spiking Gradient
    Descent", NeurIPS 2021.

    Args:
        k: Steepness, k > 0.
        window: b > 0.

    Example:
        >>> SparseFastSigmoid(k=1.0, window=0.5).derivative(torch.tensor([0.0, 0.25, 0.75]))
        tensor([1.0000, 0.6400, 0.0000])
    """

    k: float = 25.0
    window: float = 0.2
    spike_out: bool = False
    spiking: bool = True
    _positive = ("k", "window")

    @property
    def support(self) -> float:
        """The window b."""
        return self.window

    def derivative(self, u: Tensor) -> Tensor:
        """Return 1 / (1 + k |u|)² in the window, else 0."""
        inside = 1 / (1 + self.k * u.abs()).square()
        return torch.where(u.abs() < self.window, inside, torch.zeros_like(u))

    def primitive(self, u: Tensor) -> Tensor:
        """Return the integral from -b."""
        z, edge = u.clamp(-self.window, self.window), self.window / (1 + self.k * self.window)
        return z / (1 + self.k * z.abs()) + edge
