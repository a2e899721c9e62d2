"""Times: when a neuron first fires tells the value."""

from typing import Literal

import torch
from torch import Tensor

from spike_ops._checked import positive
from spike_ops.encoding._base import (
    as_spikes,
    at_times,
    check_steps,
    check_unit,
    first_times,
    steps_like,
)


def latency(
    x: Tensor,
    steps: int,
    *,
    kind: Literal["linear", "log"] = "linear",
    tau: float = 5.0,
    threshold: float = 0.01,
    spike_out: bool = False,
) -> Tensor:
    """Return at most one spike for each value, the earlier the larger: [T, ...].

    linear: t = round((T - 1) (1 - x)); every value fires, 0 in the last step. Decoded within
    1 / (2 (T - 1)).
    log: t = round(τ ln(x / (x - θ))), the time in which a membrane with time constant τ, driven by
    x, reaches θ. Values of at most θ, and those later than the last step, never fire. Decoded
    within the values whose time is half a step off.

    Args:
        x: Values in 0..1.
        steps: T.
        kind: `"linear"` or `"log"`.
        tau: τ in steps.
        threshold: θ > 0.
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: A value is outside 0..1 or a setting out of range.

    Example:
        >>> latency(torch.tensor([0.0, 0.5, 1.0]), 3).T
        tensor([[0., 0., 1.],
                [0., 1., 0.],
                [1., 0., 0.]])
    """
    check_unit(x)
    check_steps(steps)
    positive(tau=tau, threshold=threshold)
    exact = x.double()
    if kind == "linear":
        return at_times(torch.round((steps - 1) * (1 - exact)), steps, x.dtype, spike_out)
    if kind != "log":
        raise ValueError(f"kind must be linear or log, got {kind!r}")
    above = exact > threshold
    safe = torch.where(above, exact, 2 * threshold)
    time = torch.where(above, torch.round(tau * torch.log(safe / (safe - threshold))), -1)
    return at_times(time, steps, x.dtype, spike_out)


def decode_latency(
    spikes: Tensor,
    *,
    kind: Literal["linear", "log"] = "linear",
    tau: float = 5.0,
    threshold: float = 0.01,
) -> Tensor:
    """Return the values whose first spikes come at these times; 0 where there is none.

    linear: 1 - t / (T - 1). log: θ / (1 - exp(-t / τ)), at most 1 (where t = 0).

    Example:
        >>> decode_latency(torch.tensor([[0.0], [1.0], [0.0]]))
        tensor([0.5000])
    """
    positive(tau=tau, threshold=threshold)
    time, steps = first_times(spikes), spikes.shape[0]
    if kind == "linear":
        value = 1 - time.double() / max(steps - 1, 1)
    elif kind == "log":
        value = (threshold / -torch.expm1(-time.double() / tau)).clamp(max=1)
    else:
        raise ValueError(f"kind must be linear or log, got {kind!r}")
    return torch.where(time < steps, value, 0).to(spikes.dtype)


def ttfs(
    x: Tensor, steps: int, *, tau: float = 5.0, threshold: float = 1.0, spike_out: bool = False
) -> Tensor:
    """Return one spike when a falling threshold θ e^(-t/τ) reaches the value: [T, ...].

    t is the first step with θ e^(-t/τ) <= x; values still below the threshold of the last step
    never fire. `decode_ttfs` returns d with d <= x < d e^(1/τ) for those that fire after step 0.

    Args:
        x: Values in 0..1.
        steps: T.
        tau: τ in steps.
        threshold: θ > 0, the threshold of step 0.
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: A value is outside 0..1 or a setting out of range.

    Source: S. Park et al., "T2FSNN: deep spiking neural networks with time-to-first-spike coding",
    DAC 2020.

    Example:
        >>> ttfs(torch.tensor([1.0, 0.4, 0.01]), 4, tau=1.0).argmax(0)
        tensor([0, 1, 0])
    """
    check_unit(x)
    check_steps(steps)
    positive(tau=tau, threshold=threshold)
    crossed = _falling(steps, tau, threshold, x) <= x.double()
    fired = crossed & ~torch.cat([torch.zeros_like(crossed[:1]), crossed[:-1]])
    return as_spikes(fired, x.dtype, spike_out)


def decode_ttfs(spikes: Tensor, *, tau: float = 5.0, threshold: float = 1.0) -> Tensor:
    """Return the threshold θ e^(-t/τ) at the first spikes; 0 where there is none.

    Example:
        >>> decode_ttfs(torch.tensor([[0.0], [1.0], [0.0]]), tau=1.0)
        tensor([0.3679])
    """
    positive(tau=tau, threshold=threshold)
    time = first_times(spikes)
    value = threshold * torch.exp(-time.double() / tau)
    return torch.where(time < spikes.shape[0], value, 0).to(spikes.dtype)


def _falling(steps: int, tau: float, threshold: float, x: Tensor) -> Tensor:
    return threshold * torch.exp(-steps_like(steps, x).double() / tau)
