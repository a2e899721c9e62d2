"""Regularisers of firing rates: what activity costs.

The rate of a neuron is its share of steps with a spike, over time and batch.
"""

from typing import Literal

from torch import Tensor

from spike_ops._checked import number, tensor
from spike_ops.encoding._base import dense_spikes

Order = Literal[1, 2]


def rate_l1(spikes: Tensor) -> Tensor:
    """Return the mean firing rate of spikes [T, B, ...]: Σ s / (T B N).

    Raises:
        ValueError: The spikes are no [T, B, ...].

    Example:
        >>> import torch
        >>> rate_l1(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]))
        tensor(0.5000)
    """
    return _rates(spikes).mean()


def rate_l2(spikes: Tensor) -> Tensor:
    """Return the mean squared firing rate of the neurons: 1/N Σ_i r_i².

    Raises:
        ValueError: The spikes are no [T, B, ...].

    Example:
        >>> import torch
        >>> rate_l2(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]))
        tensor(0.5000)
    """
    return _rates(spikes).square().mean()


def rate_above(spikes: Tensor, bound: float, *, order: Order = 2) -> Tensor:
    """Return by how much rates exceed a bound: 1/N Σ_i max(0, r_i - bound)^order.

    Args:
        spikes: [T, B, ...].
        bound: In 0..1.
        order: 1 or 2.

    Raises:
        ValueError: An argument is out of range.

    Source: F. Zenke and T. Vogels, "The remarkable robustness of surrogate gradient learning",
    Neural Computation 2021, section 4.4 (with rates in place of counts).

    Example:
        >>> import torch
        >>> rate_above(torch.ones(4, 1, 2), 0.5, order=1)
        tensor(0.5000)
    """
    return _penalty(_rates(spikes) - _in_unit(bound), order)


def rate_below(spikes: Tensor, bound: float, *, order: Order = 2) -> Tensor:
    """Return by how much rates fall short of a bound: 1/N Σ_i max(0, bound - r_i)^order.

    It keeps neurons from falling silent for good, where no surrogate reaches them.

    Args:
        spikes: [T, B, ...].
        bound: In 0..1.
        order: 1 or 2.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import torch
        >>> rate_below(torch.zeros(4, 1, 2), 0.5)
        tensor(0.2500)
    """
    return _penalty(_in_unit(bound) - _rates(spikes), order)


def _penalty(excess: Tensor, order: int) -> Tensor:
    if order not in {1, 2}:
        raise ValueError(f"order must be 1 or 2, got {order}")
    return excess.relu().pow(order).mean()


def _rates(spikes: Tensor) -> Tensor:
    if tensor("spikes", spikes).ndim < 2 or not spikes.numel():
        raise ValueError(f"spikes must be [T, B, ...] and not empty, got {tuple(spikes.shape)}")
    return dense_spikes(spikes).mean((0, 1))


def _in_unit(bound: float) -> float:
    number(bound=bound)
    if not 0 <= bound <= 1:
        raise ValueError(f"bound must be in 0..1, got {bound}")
    return bound
