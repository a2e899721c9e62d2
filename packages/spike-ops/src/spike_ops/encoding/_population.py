"""Populations: neurons with receptive fields side by side share one value."""

import torch
from torch import Tensor

from spike_ops._checked import number, positive
from spike_ops.encoding._base import check_finite, check_whole, wide


def population(
    x: Tensor, neurons: int, *, low: float = 0.0, high: float = 1.0, beta: float = 1.5
) -> Tensor:
    """Return how strongly Gaussian receptive fields answer, in 0..1: [..., neurons].

    a_i = exp(-(x - μ_i)² / (2 σ²)) with μ_i = low + (2 i - 3) / 2 (high - low) / (m - 2) for
    i = 1..m, and σ = (high - low) / (β (m - 2)). `rate`, `latency` or `ttfs` make spikes of the
    answers; `decode_population` returns x from them but for rounding.

    Args:
        x: Values, best within `low`..`high`.
        neurons: m, at least 3.
        low: Where the receptive fields begin.
        high: Where they end.
        beta: β > 0, the larger the narrower the fields.

    Raises:
        ValueError: A value is not finite or a setting out of range.

    Source: S. Bohte et al., "Error-backpropagation in temporally encoded networks of spiking
    neurons", Neurocomputing 2002, section 4.

    Example:
        >>> population(torch.tensor([0.5]), 3, beta=1.0)
        tensor([[0.6065, 1.0000, 0.6065]])
    """
    check_finite(x)
    centre, sigma = _fields(x, neurons, low, high, beta)
    return torch.exp(-((x.unsqueeze(-1) - centre) ** 2) / (2 * sigma**2)).to(x.dtype)


def decode_population(
    answers: Tensor, *, low: float = 0.0, high: float = 1.0, beta: float = 1.5
) -> Tensor:
    """Return the values whose receptive fields answer like this: [...].

    The two strongest neighbours decide: ln a_i - ln a_j is linear in x, and solved for it. NaN
    where fewer than two answer.

    Args:
        answers: a [..., m], or the values decoded from the spikes that were made of it.
        low: As in `population`.
        high: As in `population`.
        beta: As in `population`.

    Raises:
        ValueError: A setting is out of range.

    Example:
        >>> decode_population(population(torch.tensor([0.3]), 5))
        tensor([0.3000])
    """
    centre, sigma = _fields(answers, answers.shape[-1], low, high, beta)
    left = (answers[..., :-1] + answers[..., 1:]).argmax(-1, keepdim=True)
    pair = torch.cat([left, left + 1], -1)
    logs = torch.log(answers.gather(-1, pair).double())
    first, second = centre.double()[pair].unbind(-1)
    difference = logs[..., 0] - logs[..., 1]
    solved = (first + second) / 2 - sigma**2 * difference / (second - first)
    value = torch.where(difference.isfinite(), solved, torch.nan)
    return value.to(answers.dtype)


def _fields(
    like: Tensor, neurons: int, low: float, high: float, beta: float
) -> tuple[Tensor, float]:
    positive(beta=beta)
    check_whole(neurons=neurons)
    number(low=low, high=high)
    if neurons < 3:
        raise ValueError(f"neurons must be at least 3, got {neurons}")
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    order = torch.arange(1, neurons + 1, dtype=wide(like).dtype, device=like.device)
    spacing = (high - low) / (neurons - 2)
    return low + (2 * order - 3) / 2 * spacing, spacing / beta
