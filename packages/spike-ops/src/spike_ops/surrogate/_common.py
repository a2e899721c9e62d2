"""The surrogates in most common use."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops.surrogate._base import Surrogate


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """Return spikes with the derivative of a sigmoid: σ'(u) = α s(αu) (1 - s(αu)).

    Args:
        alpha: Steepness α > 0.

    Example:
        >>> u = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
        >>> spikes = Sigmoid(alpha=4.0)(u)
        >>> spikes.detach()
        tensor([0., 1., 1.])
        >>> spikes.sum().backward()
        >>> u.grad[1]
        tensor(1.)
    """

    alpha: float = 4.0
    spike_out: bool = False
    spiking: bool = True
    _positive = ("alpha",)

    def derivative(self, u: Tensor) -> Tensor:
        """Return α s(αu) (1 - s(αu))."""
        s = torch.sigmoid(self.alpha * u)
        return self.alpha * s * (1 - s)

    def primitive(self, u: Tensor) -> Tensor:
        """Return s(αu)."""
        return torch.sigmoid(self.alpha * u)


@dataclass(frozen=True)
class ATan(Surrogate):
    """Return spikes with the derivative of an arctangent: σ'(u) = α / 2 / (1 + (π α u / 2)²).

    Source: W. Fang et al., "Incorporating Learnable Membrane Time Constant", ICCV 2021.
    """

    alpha: float = 2.0
    spike_out: bool = False
    spiking: bool = True
    _positive = ("alpha",)

    def derivative(self, u: Tensor) -> Tensor:
        """Return α / 2 / (1 + (π α u / 2)²)."""
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * u).square())

    def primitive(self, u: Tensor) -> Tensor:
        """Return arctan(π α u / 2) / π + 1 / 2."""
        return torch.atan(math.pi / 2 * self.alpha * u) / math.pi + 0.5


@dataclass(frozen=True)
class Rectangular(Surrogate):
    """Return spikes with a window as derivative: σ'(u) = 1[|u| < a / 2] / a.

    Its derivative is one bit, so that what a neuron keeps for the backward pass is two.

    Source: Y. Wu et al., "Spatio-Temporal Backpropagation", Frontiers in Neuroscience 2018, h1.
    """

    width: float = 1.0
    spike_out: bool = False
    spiking: bool = True
    _positive = ("width",)

    @property
    def support(self) -> float:
        """Half the width."""
        return self.width / 2

    def derivative(self, u: Tensor) -> Tensor:
        """Return 1[|u| < a / 2] / a."""
        return (u.abs() < self.width / 2).to(u.dtype) / self.width

    def primitive(self, u: Tensor) -> Tensor:
        """Return clip(u / a + 1 / 2, 0, 1)."""
        return (u / self.width + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """Return spikes with a triangle as derivative: σ'(u) = γ max(0, 1 - |u| / w).

    Source: G. Bellec et al., "Long short-term memory and learning-to-learn in networks of spiking
    neurons", NeurIPS 2018 (γ = 0.3 there).
    """

    width: float = 1.0
    gamma: float = 1.0
    spike_out: bool = False
    spiking: bool = True
    _positive = ("width", "gamma")

    @property
    def support(self) -> float:
        """The width w."""
        return self.width

    def derivative(self, u: Tensor) -> Tensor:
        """Return γ max(0, 1 - |u| / w)."""
        return self.gamma * (1 - u.abs() / self.width).clamp(min=0)

    def primitive(self, u: Tensor) -> Tensor:
        """Return the integral of the triangle from -w."""
        z = (u / self.width).clamp(-1, 1)
        return self.gamma * self.width * (0.5 + z - z * z.abs() / 2)
