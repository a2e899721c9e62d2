"""Weights where excitation and inhibition cancel."""

import math

import torch
from torch import Tensor

from spike_ops._checked import finite, tensor
from spike_ops.structure._base import drawing


def balanced_weight(
    mask: Tensor,
    signs: Tensor,
    *,
    gain: float = 1.0,
    spread: float = 0.0,
    exact: bool = True,
    seed: int = 0,
) -> Tensor:
    """Return a weight whose neurons get no input on average, and fluctuations of order one.

        w = J / √K_E from neurons that excite, w = -J √K_E / K_I from those that inhibit

    with K_E and K_I the connections of each kind of a neuron (of its own row if exact, else on
    average). If all fire alike the mean input is 0, and its variance per unit variance of the
    inputs is J² (1 + K_E / K_I), however many there are. With 80 % excitatory neurons inhibitory
    weights are four times as large.

    Args:
        mask: Which connections exist [out, in]: bool, or zeros and ones.
        signs: ±1 for every neuron before the weight [in].
        gain: J.
        spread: Standard deviation of the factors e^(σ z - σ² / 2), of mean 1, on each weight; with
            `exact` each kind of a row is scaled back to its sum.
        exact: Cancel in every row; otherwise over all rows.
        seed: Seed of the spread.

    Raises:
        ValueError: Shapes do not fit, mask or signs hold other values, the spread is negative, or
            a row (on average: every row) lacks one of the two kinds.

    Source: C. van Vreeswijk, H. Sompolinsky, "Chaos in Neuronal Networks with Balanced Excitatory
    and Inhibitory Activity", Science 1996.

    Example:
        >>> mask, signs = torch.ones(1, 5, dtype=torch.bool), torch.tensor([1.0, 1, 1, 1, -1])
        >>> balanced_weight(mask, signs)
        tensor([[ 0.5000,  0.5000,  0.5000,  0.5000, -2.0000]])
    """
    if tensor("mask", mask).ndim != 2 or mask.shape[1:] != tensor("signs", signs).shape:
        got = f"{tuple(mask.shape)} and {tuple(signs.shape)}"
        raise ValueError(f"mask must be [out, in] and signs [in], got {got}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask must be bool, or zeros and ones")
    if not bool((signs.abs() == 1).all()):
        raise ValueError("signs must be +1 or -1")
    finite(gain=gain, spread=spread)
    if not spread >= 0:
        raise ValueError(f"spread must be at least 0, got {spread}")
    kinds = [(mask.bool() & (signs == sign)).to(torch.float64) for sign in (1, -1)]
    counts = [kind.sum(1, keepdim=True) for kind in kinds]
    if not exact:
        counts = [count.mean().expand_as(count) for count in counts]
    if any(bool((count == 0).any()) for count in counts):
        raise ValueError("every neuron needs connections of both signs to be balanced")
    drawn = torch.randn(mask.shape, generator=drawing(seed), dtype=torch.float64)
    factors = torch.exp(spread * drawn - spread**2 / 2)
    total = gain * counts[0].sqrt()  # of each kind in a row
    weight = torch.zeros(mask.shape, dtype=torch.float64)
    for sign, kind, count in zip((1, -1), kinds, counts, strict=True):
        part = kind * factors
        whole = part.sum(1, keepdim=True) if exact else count
        weight += sign * part * (total / whole)
    return weight.to(torch.get_default_dtype())


def balanced_variance(excitatory: int, inhibitory: int, gain: float = 1.0) -> float:
    """Return the variance of a balanced neuron's input per unit variance of its inputs.

    J² (1 + K_E / K_I), of weights without spread.

    Example:
        >>> balanced_variance(80, 20)
        5.0
    """
    return math.pow(gain, 2) * (1 + excitatory / inhibitory)
