"""Phases: where in a period a neuron fires tells the value."""

import torch
from torch import Tensor

from spike_ops.encoding._base import (
    as_spikes,
    binary,
    check_steps,
    check_unit,
    check_whole,
    steps_like,
)


def phase(x: Tensor, steps: int, *, period: int = 8, spike_out: bool = False) -> Tensor:
    """Return one spike in each period, in the earlier a phase the larger the value: [T, ...].

    Phase round((P - 1) (1 - x)) of each P steps. `decode_phase` returns x within
    1 / (2 (P - 1)).

    Args:
        x: Values in 0..1.
        steps: T, a multiple of the period.
        period: P, at least 2.
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: A value is outside 0..1 or a setting out of range.

    Example:
        >>> phase(torch.tensor([1.0, 0.0]), 4, period=2).T
        tensor([[1., 0., 1., 0.],
                [0., 1., 0., 1.]])
    """
    check_unit(x)
    _check_period(steps, period, 2)
    place = torch.round((period - 1) * (1 - x.double()))
    return as_spikes(steps_like(steps, x) % period == place, x.dtype, spike_out)


def decode_phase(spikes: Tensor, *, period: int = 8) -> Tensor:
    """Return 1 - (phase / (P - 1)), averaged over the spikes; 0 where there is none.

    Example:
        >>> decode_phase(torch.tensor([[1.0], [0.0], [1.0], [0.0]]), period=2)
        tensor([1.])
    """
    _check_period(spikes.shape[0], period, 2)
    dense = binary(spikes).double()
    place = (steps_like(len(dense), dense[0]) % period).double()
    number = dense.sum(0)
    mean = (dense * (1 - place / (period - 1))).sum(0) / number.clamp(min=1)
    return torch.where(number > 0, mean, 0).to(spikes.dtype)


def weighted_phase(x: Tensor, steps: int, *, bits: int = 8, spike_out: bool = False) -> Tensor:
    """Return the binary digits of the values, the first first, again and again: [T, ...].

    A spike in phase k = 0, 1, ... of a period stands for 2^-(k+1). The digits are those of
    floor(2^K x), at most 2^K - 1; `decode_weighted_phase` returns x from below, within 2^-K.

    Args:
        x: Values in 0..1.
        steps: T, a multiple of `bits`.
        bits: K, phases in a period.
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: A value is outside 0..1 or a setting out of range.

    Source: J. Kim et al., "Deep neural networks with weighted spikes", Neurocomputing 2018.

    Example:
        >>> weighted_phase(torch.tensor([0.75, 0.3]), 3, bits=3).T
        tensor([[1., 1., 0.],
                [0., 1., 0.]])
    """
    check_unit(x)
    _check_period(steps, bits, 1)
    if bits > 52:
        raise ValueError(f"bits must be in 1..52, got {bits}")
    whole = torch.floor(x.double() * 2**bits).long().clamp(max=2**bits - 1)
    place = bits - 1 - steps_like(steps, x) % bits
    return as_spikes((whole >> place) & 1 == 1, x.dtype, spike_out)


def decode_weighted_phase(spikes: Tensor, *, bits: int = 8) -> Tensor:
    """Return the sum of 2^-(k+1) over the spikes, a period's mean.

    Example:
        >>> decode_weighted_phase(torch.tensor([[1.0], [1.0], [0.0]]), bits=3)
        tensor([0.7500])
    """
    _check_period(spikes.shape[0], bits, 1)
    dense = binary(spikes).double()
    weight = 2.0 ** -(steps_like(len(dense), dense[0]) % bits + 1).double()
    return ((dense * weight).sum(0) * bits / len(dense)).to(spikes.dtype)


def _check_period(steps: int, period: int, least: int) -> None:
    check_steps(steps)
    check_whole(period=period)
    if period < least or steps % period:
        got = f"{steps} steps and {period}"
        raise ValueError(f"steps must be a multiple of the period (at least {least}), got {got}")
