"""Parallel spiking neurons: no reset, so that all steps are one product over time."""

from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._checked import counted, flag, number, tensor, whole_number
from spike_ops._produced import note
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.neuron._inputs import check_finite
from spike_ops.neuron._told import differing
from spike_ops.surrogate import ATan, Surrogate
from spike_ops.surrogate._base import check_spike_out, check_surrogate


class PSN(nn.Module):
    """Return the spikes of parallel spiking neurons: H = W X over time, S = Θ(H - B).

    W [T, T] and the thresholds B [T] are learned; W begins as in `torch.nn.Linear`, B with 1.

    Source: W. Fang et al., "Parallel Spiking Neurons with High Efficiency and Ability to Learn
    Long-term Dependencies", NeurIPS 2023, equations 8 and 9.

    Args:
        steps: T, the number of steps of every input.
        surrogate: Gradient in place of the step's.
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: `steps` is below 1, or an input has another number of steps.

    Example:
        >>> PSN(4)(torch.randn(4, 2, 8)).shape
        torch.Size([4, 2, 8])
    """

    def __init__(
        self, steps: int, *, surrogate: Surrogate | None = None, spike_out: bool = False
    ) -> None:
        super().__init__()
        steps = counted("steps", steps)
        flag(spike_out=spike_out)
        self.surrogate, self.spike_out = _firing(surrogate, spike_out), spike_out
        self.weight = nn.Parameter(torch.empty(steps, steps))
        self.threshold = nn.Parameter(torch.ones(steps))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def over_time(self) -> Tensor:
        """Return the weight over time that is applied: [T, T], row t for the output of step t."""
        return self.weight

    def forward(self, currents: Tensor) -> Tensor:
        """Return the spikes [T, B, ...] of currents [T, B, ...]."""
        weight, currents = self.over_time(), tensor("currents", currents)
        if currents.ndim < 2 or currents.shape[0] != weight.shape[0]:
            shape = tuple(currents.shape)
            raise ValueError(f"currents must be [T, B, ...] with T = {len(weight)}, got {shape}")
        h = (weight @ currents.flatten(1)).reshape(currents.shape)
        u = h - self.threshold.reshape(-1, *[1] * (h.ndim - 1))
        return fired(self.surrogate, u, currents, spike_out=self.spike_out)

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return ", ".join([str(len(self.weight)), *differing(self), f"surrogate={self.surrogate}"])


class MaskedPSN(PSN):
    """Return the spikes of a PSN that sees the present and the k - 1 steps before it.

        W' = W ⊙ (λ M + (1 - λ)),   M[t, i] = 1 for t - k < i <= t

    λ goes from 0 to 1 during training (`masking`); at 1 the neuron is causal.

    Source: W. Fang et al., NeurIPS 2023, equations 10 to 12.

    Args:
        steps: T.
        order: k, in 1..T.
        masking: λ in 0 to 1.
        options: Those of `PSN`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> MaskedPSN(3, order=1).over_time().count_nonzero().item()
        3
    """

    mask: Tensor

    def __init__(self, steps: int, *, order: int, masking: float = 1.0, **options: Any) -> None:
        super().__init__(steps, **options)
        if not 1 <= (order := whole_number("order", order)) <= steps:
            raise ValueError(f"order must be in 1..{steps}, the steps, got {order}")
        number(masking=masking)
        if not 0 <= masking <= 1:
            raise ValueError(f"masking must be in 0..1, got {masking}")
        self.masking, self.order = masking, order
        lag = torch.arange(steps)[:, None] - torch.arange(steps)
        self.register_buffer("mask", ((lag >= 0) & (lag < order)).float(), persistent=False)

    def over_time(self) -> Tensor:
        """Return W ⊙ (λ M + (1 - λ))."""
        return self.weight * (self.masking * self.mask + (1 - self.masking))


class SlidingPSN(nn.Module):
    """Return the spikes of a PSN whose weights over the last k steps are the same at every step.

        H[t] = Σ_{i<k} w_i X[t - k + 1 + i],   S = Θ(H - b),   X before the first step is 0

    w begins as 2^(i - k + 1), b as 1. Takes any number of steps.

    Source: W. Fang et al., NeurIPS 2023, equations 13 and 14.

    Args:
        order: k, at least 1.
        surrogate: Gradient in place of the step's.
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: `order` is below 1, or an input has no time axis.

    Example:
        >>> SlidingPSN(2)(torch.tensor([0.8, 0.8, 0.0]).reshape(3, 1, 1)).flatten().tolist()
        [0.0, 1.0, 0.0]
    """

    def __init__(
        self, order: int, *, surrogate: Surrogate | None = None, spike_out: bool = False
    ) -> None:
        super().__init__()
        order = counted("order", order)
        flag(spike_out=spike_out)
        self.surrogate, self.spike_out = _firing(surrogate, spike_out), spike_out
        self.weight = nn.Parameter(2.0 ** torch.arange(1 - order, 1))
        self.threshold = nn.Parameter(torch.tensor(1.0))

    def forward(self, currents: Tensor) -> Tensor:
        """Return the spikes [T, B, ...] of currents [T, B, ...]."""
        if tensor("currents", currents).ndim < 2:
            raise ValueError(f"currents must be [T, B, ...], got {tuple(currents.shape)}")
        order = len(self.weight)
        flat = currents.flatten(1).t()[:, None]  # [n, 1, T]
        h = nn.functional.conv1d(nn.functional.pad(flat, (order - 1, 0)), self.weight[None, None])
        u = h[:, 0].t().reshape(currents.shape) - self.threshold
        return fired(self.surrogate, u, currents, spike_out=self.spike_out)

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return ", ".join([str(len(self.weight)), *differing(self), f"surrogate={self.surrogate}"])


def _firing(surrogate: Surrogate | None, spike_out: bool) -> Surrogate:
    """Return the surrogate that neurons fire by: one that is given, or the usual one."""
    fires = ATan() if surrogate is None else surrogate
    check_surrogate(fires)
    check_spike_out(fires, spike_out)
    return fires


def fired(surrogate: Surrogate, u: Tensor, currents: Tensor, *, spike_out: bool) -> Tensor:
    """Return the spikes of u, packed where asked for.

    Raises:
        ValueError: u is not finite, as it is where the currents are not.
    """
    check_finite((u,), currents)
    spikes = surrogate.dense(u)
    if getattr(surrogate, "spiking", True):
        note(spikes)
    return SpikeTensor.from_dense(spikes) if spike_out else spikes
