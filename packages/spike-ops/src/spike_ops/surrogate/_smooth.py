"""Surrogates with tails that reach everywhere."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops.surrogate._base import Surrogate


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """Return spikes with the derivative σ'(u) = 1 / (1 + k |u|)².

    Source: F. Zenke and S. Ganguli, "SuperSpike: Supervised Learning in Multilayer Spiking Neural
    Networks", Neural Computation 2018, equation 3.

    Args:
        k: Steepness, k > 0. The area under the derivative is 2 / k.

    Example:
        >>> FastSigmoid(k=4.0).derivative(torch.tensor([0.0, 0.25]))
        tensor([1.0000, 0.2500])
    """

    k: float = 25.0
    spike_out: bool = False
    spiking: bool = True
    _positive = ("k",)

    def derivative(self, u: Tensor) -> Tensor:
        """Return 1 / (1 + k |u|)²."""
        return 1 / (1 + self.k * u.abs()).square()

    def primitive(self, u: Tensor) -> Tensor:
        """Return u / (1 + k |u|) + 1 / k."""
        return u / (1 + self.k * u.abs()) + 1 / self.k


SuperSpike = FastSigmoid


@dataclass(frozen=True)
class Gaussian(Surrogate):
    """Return spikes with the derivative σ'(u) = e^(-u² / (2 w²)) / (w √(2π)).

    The primitive is the error function: erf(αu) is this one with w = 1 / (α √2).

    Args:
        width: Standard deviation w > 0. The area under the derivative is 1.

    Example:
        >>> Gaussian(width=0.5).derivative(torch.zeros(1))
        tensor([0.7979])
    """

    width: float = 0.5
    spike_out: bool = False
    spiking: bool = True
    _positive = ("width",)

    def derivative(self, u: Tensor) -> Tensor:
        """Return e^(-u² / (2 w²)) / (w √(2π))."""
        return normal(u, 0.0, self.width)

    def primitive(self, u: Tensor) -> Tensor:
        """Return (1 + erf(u / (w √2))) / 2."""
        return cumulated(u, 0.0, self.width)


@dataclass(frozen=True)
class MultiGaussian(Surrogate):
    """Return spikes with a Gaussian between two negative ones as derivative.

        σ'(u) = (1 + h) N(u; 0, w) - h N(u; w, 6 w) - h N(u; -w, 6 w)

    Source: B. Yin, F. Corradi and S. Bohté, "Accurate and efficient time-domain classification
    with adaptive spiking recurrent neural networks", Nature Machine Intelligence 2021.

    Args:
        width: w > 0.
        height: h >= 0, weight of the negative ones. The area under the derivative is 1 - h.

    Example:
        >>> bool(MultiGaussian().derivative(torch.tensor([3.0])) < 0)
        True
    """

    width: float = 0.5
    height: float = 0.15
    spike_out: bool = False
    spiking: bool = True
    _positive = ("width",)
    _not_negative = ("height",)

    @property
    def signed(self) -> bool:
        """Negative away from the threshold."""
        return self.height > 0

    def derivative(self, u: Tensor) -> Tensor:
        """Return the sum of the three."""
        w, h = self.width, self.height
        sides = normal(u, w, 6 * w) + normal(u, -w, 6 * w)
        return (1 + h) * normal(u, 0.0, w) - h * sides

    def primitive(self, u: Tensor) -> Tensor:
        """Return the sum of the three normal distributions."""
        w, h = self.width, self.height
        sides = cumulated(u, w, 6 * w) + cumulated(u, -w, 6 * w)
        return (1 + h) * cumulated(u, 0.0, w) - h * sides


@dataclass(frozen=True)
class PiecewiseExponential(Surrogate):
    """Return spikes with the derivative σ'(u) = α / 2 e^(-α |u|).

    Source: S. Shrestha and G. Orchard, "SLAYER: Spike Layer Error Reassignment in Time", NeurIPS
    2018.

    Args:
        alpha: α > 0. The area under the derivative is 1.

    Example:
        >>> PiecewiseExponential(alpha=2.0).derivative(torch.zeros(1))
        tensor([1.])
    """

    alpha: float = 1.0
    spike_out: bool = False
    spiking: bool = True
    _positive = ("alpha",)

    def derivative(self, u: Tensor) -> Tensor:
        """Return α / 2 e^(-α |u|)."""
        return self.alpha / 2 * (-self.alpha * u.abs()).exp()

    def primitive(self, u: Tensor) -> Tensor:
        """Return the integral: e^(αu) / 2 below 0, 1 - e^(-αu) / 2 above."""
        tail = (-self.alpha * u.abs()).exp() / 2
        return torch.where(u < 0, tail, 1 - tail)


@dataclass(frozen=True)
class SoftSign(Surrogate):
    """Return spikes with the derivative σ'(u) = α / 2 / (1 + α |u|)², that of u / (1 + α |u|).

    Args:
        alpha: α > 0. The area under the derivative is 1.

    Example:
        >>> SoftSign(alpha=2.0).derivative(torch.zeros(1))
        tensor([1.])
    """

    alpha: float = 2.0
    spike_out: bool = False
    spiking: bool = True
    _positive = ("alpha",)

    def derivative(self, u: Tensor) -> Tensor:
        """Return α / 2 / (1 + α |u|)²."""
        return self.alpha / 2 / (1 + self.alpha * u.abs()).square()

    def primitive(self, u: Tensor) -> Tensor:
        """Return (1 + α u / (1 + α |u|)) / 2."""
        return (1 + self.alpha * u / (1 + self.alpha * u.abs())) / 2


def normal(u: Tensor, mean: float, width: float) -> Tensor:
    """Return the density of the normal distribution."""
    z = (u - mean) * (1 / width)
    return (-0.5 * z * z).exp() * (1 / (width * math.sqrt(2 * math.pi)))


def cumulated(u: Tensor, mean: float, width: float) -> Tensor:
    """Return the normal distribution function."""
    return (1 + torch.erf((u - mean) * (1 / (width * math.sqrt(2))))) / 2
