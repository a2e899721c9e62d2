"""Rates and currents: how often a neuron fires tells the value."""

import warnings

import torch
from torch import Tensor

from spike_ops._checked import number, positive
from spike_ops.encoding._base import (
    as_float,
    as_spikes,
    binary,
    check_finite,
    check_steps,
    check_unit,
    check_whole,
    summed,
    wide,
)

# events in a step, on average, that nobody asks for
MANY = 10.0


def rate(
    x: Tensor,
    steps: int,
    *,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    spike_out: bool = False,
) -> Tensor:
    """Return spikes that fall at each step with probability gain x: [T, ...] (Bernoulli).

    The number of spikes is binomial: mean T gain x, variance T gain x (1 - gain x).
    `decode_rate` returns x within sqrt(ln(2 / δ) / (2 T)) / gain with probability 1 - δ
    (Hoeffding).

    Args:
        x: Values in 0..1.
        steps: T.
        gain: Probability of a spike at x = 1, at most 1.
        generator: Where the randomness comes from; torch's own without one.
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: A value is outside 0..1, or `gain` or `steps` out of range.

    Example:
        >>> spikes = rate(torch.tensor([0.0, 1.0]), 3)
        >>> spikes
        tensor([[0., 1.],
                [0., 1.],
                [0., 1.]])
    """
    check_unit(x)
    check_steps(steps)
    number(gain=gain)
    if not 0 < gain <= 1:
        raise ValueError(f"gain must be in 0..1, above 0, got {gain}")
    return as_spikes(_drawn(gain * wide(x), steps, generator), x.dtype, spike_out)


def _drawn(chance: Tensor, steps: int, generator: torch.Generator | None) -> Tensor:
    """Return where something falls that does so with these chances at each step, as booleans."""
    if not isinstance(generator, torch.Generator | None):
        told = f"{generator!r}; torch.Generator().manual_seed(0) is one"
        raise TypeError(f"generator must be a torch.Generator, got {told}")
    shape, (dtype, device) = (steps, *chance.shape), (chance.dtype, chance.device)
    return torch.rand(shape, generator=generator, dtype=dtype, device=device) < chance


def decode_rate(spikes: Tensor, *, gain: float = 1.0) -> Tensor:
    """Return the share of steps with a spike, over the gain: the estimate of `rate`'s x.

    Example:
        >>> decode_rate(torch.tensor([[1.0], [0.0]]), gain=0.8)
        tensor([0.6250])
    """
    positive(gain=gain)
    return binary(spikes).mean(0) / gain


def poisson(
    rates: Tensor,
    steps: int,
    *,
    dt: float = 1.0,
    generator: torch.Generator | None = None,
    spike_out: bool = False,
) -> Tensor:
    """Return the steps in which Poisson processes have an event: [T, ...].

    A step of length dt has one or more with probability 1 - exp(-rate dt). Where rate dt is above
    ten on average, as where dt was forgotten, it warns.

    Args:
        rates: Events per unit of time, at least 0; whole numbers are taken as they are.
        steps: T.
        dt: Length of a step, in the same unit: rates in Hz and steps of a millisecond take 1e-3.
        generator: Where the randomness comes from; torch's own without one.
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: A rate is negative or not finite, or a setting out of range.

    Example:
        >>> poisson(torch.tensor([0.0, 1e3]), 2, dt=1e-2)
        tensor([[0., 1.],
                [0., 1.]])
    """
    positive(dt=dt)
    check_steps(steps)
    rates = as_float("rates", rates)  # minus a byte is a byte
    if bool((wrong := ~((rates >= 0) & rates.isfinite())).any()):
        raise ValueError(f"rates must be finite and at least 0, got {rates[wrong][0].item():g}")
    expected = wide(rates) * dt
    if float(expected.mean()) > MANY:
        told = f"rates * dt is {float(expected.mean()):g} on average: nearly every step has a spike"
        warnings.warn(f"{told}; rates in Hz and steps of a millisecond take dt=1e-3", stacklevel=2)
    chance = -torch.expm1(-expected)
    return as_spikes(_drawn(chance, steps, generator), rates.dtype, spike_out)


def decode_poisson(spikes: Tensor, *, dt: float = 1.0) -> Tensor:
    """Return the maximum-likelihood rates -ln(1 - share) / dt; inf where every step fired.

    Example:
        >>> decode_poisson(torch.tensor([[1.0], [0.0]]), dt=0.1)
        tensor([6.9315])
    """
    positive(dt=dt)
    return (-torch.log1p(-wide(binary(spikes)).mean(0)) / dt).to(spikes.dtype)


def direct(x: Tensor, steps: int) -> Tensor:
    """Return the values as a current that stays: [T, ...], a view that takes no memory.

    The first layer of neurons turns it into spikes. Its mean over time is x.

    Args:
        x: Finite values; whole numbers, bytes among them, are taken in the default type.
        steps: T.

    Raises:
        ValueError: `steps` is not positive, or a value not finite.

    Example:
        >>> direct(torch.tensor([0.5, 2.0]), 2)
        tensor([[0.5000, 2.0000],
                [0.5000, 2.0000]])
    """
    check_steps(steps)
    x = as_float("x", x)
    check_finite(x)
    return x.expand(steps, *x.shape)


def burst(
    x: Tensor,
    steps: int,
    *,
    most: int = 5,
    shortest: int = 1,
    longest: int = 3,
    spike_out: bool = False,
) -> Tensor:
    """Return bursts from step 0 on: larger values fire more often and faster: [T, ...].

    n = ceil(most x) spikes, ceil(longest - (longest - shortest) x) steps apart.
    `decode_burst` returns x from above, within 1 / most.

    Args:
        x: Values in 0..1.
        steps: T, long enough for every burst.
        most: Spikes at x = 1.
        shortest: Steps between spikes at x = 1.
        longest: Steps between spikes at x = 0.
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: A value is outside 0..1, a setting out of range, or a burst longer than T.

    Source: W. Guo et al., "Neural coding in spiking neural networks: a comparative study for
    robust neuromorphic systems", Frontiers in Neuroscience 2021, equations 5-6.

    Example:
        >>> burst(torch.tensor([0.0, 0.5, 1.0]), 7, most=4, longest=2).T
        tensor([[0., 0., 0., 0., 0., 0., 0.],
                [1., 0., 1., 0., 0., 0., 0.],
                [1., 1., 1., 1., 0., 0., 0.]])
    """
    check_unit(x)
    check_steps(steps)
    check_whole(most=most, shortest=shortest, longest=longest)
    if most < 1 or not 1 <= shortest <= longest:
        got = f"{most}, {shortest}, {longest}"
        raise ValueError(f"most, shortest <= longest must be at least 1, got {got}")
    if steps < (needed := _longest_burst(most, shortest, longest)):
        raise ValueError(f"steps must be at least {needed} for these bursts, got {steps}")
    number = torch.ceil(most * x.double()).long()
    apart = torch.ceil(longest - (longest - shortest) * x.double()).long()
    step = torch.arange(steps, device=x.device).reshape(steps, *[1] * x.ndim)
    fired = (step % apart == 0) & (step // apart < number)
    return as_spikes(fired, x.dtype, spike_out)


def decode_burst(spikes: Tensor, *, most: int = 5) -> Tensor:
    """Return the number of spikes over the largest number.

    Example:
        >>> decode_burst(torch.tensor([[1.0], [1.0], [0.0]]), most=4)
        tensor([0.5000])
    """
    positive(most=most)
    return summed(binary(spikes)) / most


def _longest_burst(most: int, shortest: int, longest: int) -> int:
    # n spikes begin above x = (n - 1) / most, where their distance is the largest
    spans = [
        (number - 1) * -(-(longest * most - (longest - shortest) * (number - 1)) // most)
        for number in range(1, most + 1)
    ]
    return 1 + max(spans)
