"""How much a weight changes, depending on what it is."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spike_ops._checked import finite, positive


class WeightDependence(Protocol):
    """Factors of potentiation and depression, functions of the weight."""

    def potentiation(self, weight: Tensor) -> Tensor:
        """Return f₊(w), of the weight's shape or a scalar."""
        ...

    def depression(self, weight: Tensor) -> Tensor:
        """Return f₋(w), of the weight's shape or a scalar."""
        ...


@dataclass(frozen=True)
class Additive:
    """Changes that do not depend on the weight: f₊ = f₋ = 1."""

    def potentiation(self, weight: Tensor) -> Tensor:
        """Return 1."""
        return weight.new_ones(())

    def depression(self, weight: Tensor) -> Tensor:
        """Return 1."""
        return weight.new_ones(())


@dataclass(frozen=True)
class PowerLaw:
    """Changes that fade towards soft bounds: f₊ = ((w₁ - w)/(w₁ - w₀))^μ₊, f₋ = ((w - w₀)/…)^μ₋.

    μ = 0 is additive, μ = 1 multiplicative; what lies between interpolates. Outside the bounds
    the factor towards the far side is 0.

    Args:
        mu_plus: μ₊ >= 0.
        mu_minus: μ₋ >= 0; μ₊ if None.
        low: w₀.
        high: w₁ > w₀.

    Raises:
        ValueError: An exponent is negative or the bounds are in the wrong order.

    Source: R. Gütig et al., "Learning Input Correlations through Nonlinear Temporally Asymmetric
    Hebbian Plasticity", J. Neurosci. 2003, eq. 2 (bounds 0 and 1).

    Example:
        >>> PowerLaw(2.0).potentiation(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.2500, 0.0000])
    """

    mu_plus: float = 1.0
    mu_minus: float | None = None
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        minus = self.mu_plus if self.mu_minus is None else self.mu_minus
        finite(mu_plus=self.mu_plus, mu_minus=minus, low=self.low, high=self.high)
        if self.mu_plus < 0 or (self.mu_minus is not None and self.mu_minus < 0):
            got = f"{self.mu_plus} and {self.mu_minus}"
            raise ValueError(f"mu_plus and mu_minus must be at least 0, got {got}")
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    def potentiation(self, weight: Tensor) -> Tensor:
        """Return ((w₁ - w) / (w₁ - w₀))^μ₊."""
        return _powered((self.high - weight) / (self.high - self.low), self.mu_plus)

    def depression(self, weight: Tensor) -> Tensor:
        """Return ((w - w₀) / (w₁ - w₀))^μ₋."""
        exponent = self.mu_plus if self.mu_minus is None else self.mu_minus
        return _powered((weight - self.low) / (self.high - self.low), exponent)


@dataclass(frozen=True)
class Proportional:
    """Changes in proportion to the clipped weight: f₊ = f₋ = clip(w, -c, c).

    Args:
        limit: c > 0.

    Raises:
        ValueError: c is not positive.
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        positive(limit=self.limit)

    def potentiation(self, weight: Tensor) -> Tensor:
        """Return clip(w, -c, c)."""
        return weight.clamp(-self.limit, self.limit)

    def depression(self, weight: Tensor) -> Tensor:
        """Return clip(w, -c, c)."""
        return weight.clamp(-self.limit, self.limit)


def _powered(share: Tensor, exponent: float) -> Tensor:
    return torch.clamp(share, min=0).pow_(exponent)
