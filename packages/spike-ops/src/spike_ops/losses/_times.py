"""Losses for times: when spikes fall, and how far two spike trains are apart."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from spike_ops import decoding
from spike_ops._checked import positive, tensor
from spike_ops.encoding._base import dense_spikes, wide

# steps that one product filters
BLOCK = 512


def spike_time_mse(spikes: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared distance of the first spikes from wanted times, in steps.

    Times and their gradient are those of `spike_ops.decoding.first_spike`: a silent neuron fires
    "at" T, and is pulled towards firing in the last step.

    Args:
        spikes: [T, B, ...].
        target: Wanted steps [B, ...]; T for none.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        >>> spikes = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]])
        >>> spike_time_mse(spikes, torch.tensor([[0, 2]]))
        tensor(0.5000)
    """
    tensor("spikes", spikes), tensor("target", target)
    if tuple(spikes.shape[1:]) != tuple(target.shape):
        got = f"{tuple(spikes.shape)} and {tuple(target.shape)}"
        raise ValueError(f"spikes must be [T, B, ...] and target [B, ...], got {got}")
    times = decoding.first_spike(spikes)
    return F.mse_loss(times, target.to(times.dtype))


def van_rossum_distance(spikes: Tensor, target: Tensor, tau: float) -> Tensor:
    """Return the van Rossum distance D² of spike trains: [B, ...] of spikes [T, B, ...].

    D² = 1/τ ∫ (f - g)² dt with f(t) = Σ_i e^(-(t - t_i)/τ) over the spikes before t, g the same of
    the target; the integral goes to infinity and is exact. One spike against none has 1/2; two
    that are d steps apart have 1 - e^(-d/τ).

    With the filtered difference r_t = e^(-1/τ) r_(t-1) + s_t - s*_t it is
    (1 - e^(-2/τ)) / 2 Σ_(t<T-1) r_t² + r_(T-1)² / 2.

    Args:
        spikes: [T, B, ...].
        target: Wanted spikes, of the same shape.
        tau: τ in steps.

    Raises:
        ValueError: The shapes differ, or τ is not positive.

    Source: M. van Rossum, "A novel spike distance", Neural Computation 2001.

    Example:
        >>> spikes = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
        >>> van_rossum_distance(spikes, spikes.flip(0), tau=2.0)
        tensor([[0.6321]])
    """
    positive(tau=tau)
    tensor("spikes", spikes), tensor("target", target)
    if spikes.shape != target.shape:
        got = f"{tuple(spikes.shape)} and {tuple(target.shape)}"
        raise ValueError(f"spikes and target must have one shape, got {got}")
    difference = dense_spikes(spikes) - dense_spikes(target)
    squares = _filtered(wide(difference), tau).square()
    distance = -math.expm1(-2 / tau) / 2 * squares[:-1].sum(0) + squares[-1] / 2
    return distance.to(difference.dtype)


def van_rossum(spikes: Tensor, target: Tensor, tau: float) -> Tensor:
    """Return the mean of `van_rossum_distance` over batch and neurons.

    Raises:
        ValueError: The shapes differ, or τ is not positive.

    Example:
        >>> van_rossum(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), tau=5.0)
        tensor(0.5000)
    """
    return van_rossum_distance(spikes, target, tau).mean()


def _filtered(x: Tensor, tau: float) -> Tensor:
    """Return r_t = e^(-1/τ) r_(t-1) + x_t, a block of steps by one product."""
    shape, x = x.shape, x.reshape(len(x), -1)
    step = torch.arange(min(len(x), BLOCK), device=x.device, dtype=x.dtype)
    weights = torch.exp(-(step[:, None] - step).clamp(min=0) / tau).tril()
    fading = torch.exp(-(step + 1) / tau)[:, None]
    parts: list[Tensor] = []
    for part in x.split(BLOCK):
        carried = fading[: len(part)] * parts[-1][-1] if parts else 0
        parts.append(weights[: len(part), : len(part)] @ part + carried)
    return torch.cat(parts).reshape(shape)
