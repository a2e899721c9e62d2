"""How many directions the units take, and how many of them do nothing of their own."""

import torch
from torch import Tensor

from neuro_morph._group_statistics import GroupStatistics
from neuro_morph._metrics._metric import add_metric

_DEAD = 1e-12  # of the largest variance


def spectrum(covariance: Tensor) -> Tensor:
    """Returns the eigenvalues of a covariance, none below zero, the largest first."""
    return torch.linalg.eigvalsh(covariance).clamp(min=0).flip(0)


def effective_rank(covariance: Tensor) -> float:
    """Returns ``exp(-sum p log p)`` with ``p`` the singular values of the units over their sum.

    Source: Roy, Vetterli, the effective rank (EUSIPCO 2007).
    """
    sigma = spectrum(covariance).sqrt()
    if not float(sigma.sum()):
        return 0.0
    p = sigma / sigma.sum()
    return float(torch.exp(-torch.xlogy(p, p).sum()))


def stable_rank(covariance: Tensor) -> float:
    """Returns ``|H|_F^2 / |H|_2^2``: the sum of the variances over the largest."""
    values = spectrum(covariance)
    return float(values.sum() / values[0]) if float(values[0]) else 0.0


def participation_ratio(covariance: Tensor) -> float:
    """Returns ``(sum l)^2 / sum l^2`` of the variances ``l``."""
    values = spectrum(covariance)
    return float(values.sum().square() / values.square().sum()) if float(values[0]) else 0.0


def dead_units(statistics: GroupStatistics) -> float:
    """Returns the part of the units that are the same for every example."""
    variance = statistics.covariance().diagonal()
    scale = statistics.unit_second.diagonal().max()
    return float((variance <= _DEAD * scale).double().mean())


def duplicate_units(statistics: GroupStatistics, *, limit: float = 0.98) -> float:
    """Returns the part of the units that are correlated with an earlier one above a limit."""
    covariance = statistics.covariance()
    scale = covariance.diagonal().clamp(min=1e-300).rsqrt()
    alike = (covariance * scale[:, None] * scale).abs() > limit
    alive = covariance.diagonal() > _DEAD * statistics.unit_second.diagonal().max()
    earlier = torch.tril(alike & alive[:, None] & alive, -1)
    return float(earlier.any(1).double().mean())


def activation_diversity(statistics: GroupStatistics) -> float:
    """Returns the effective rank over the width: near 1 every unit is used."""
    return effective_rank(statistics.covariance()) / statistics.size


add_metric("activation_diversity", activation_diversity, "effective rank over width")
add_metric("dead_units", lambda s: -dead_units(s), "less units that never change")
add_metric("duplicate_units", lambda s: -duplicate_units(s), "less units that repeat others")
