"""Mutual information of a few numbers, from nearest neighbours."""

import torch
from torch import Tensor

_MOST = 8  # numbers beyond which neighbours are too far to tell


def mutual_information(x: Tensor, y: Tensor, *, neighbours: int = 3) -> float:
    """Returns an estimate of the mutual information of ``x`` and ``y``, in nats.

    ``psi(k) + psi(n) - mean(psi(n_x + 1) + psi(n_y + 1))`` in the largest-difference norm. Units
    that are a function of the input without noise have infinite information about it, so that it
    is offered for a few chosen numbers only and is no score.

    Args:
        x: ``[n, a]``.
        y: ``[n, b]``.
        neighbours: ``k``.

    Raises:
        ValueError: for more than 8 numbers in all, or no more examples than ``neighbours``.

    Source: Kraskov, Stögbauer, Grassberger, estimating mutual information (Physical Review E
    2004), equation 8.
    """
    if x.shape[1] + y.shape[1] > _MOST:
        raise ValueError(
            f"x and y must have at most {_MOST} columns in all, got {x.shape[1]} and {y.shape[1]}"
        )
    if not 1 <= neighbours < len(x):
        raise ValueError(f"neighbours must be in 1..{len(x) - 1}, got {neighbours}")
    apart = [torch.cdist(each.double(), each.double(), p=float("inf")) for each in (x, y)]
    for each in apart:
        each.fill_diagonal_(float("inf"))
    reach = torch.maximum(*apart).kthvalue(neighbours, 1).values
    near = [(each < reach[:, None]).sum(1).double() + 1 for each in apart]
    ends = torch.tensor([float(neighbours), float(len(x))], dtype=torch.float64)
    marginal = (near[0].digamma() + near[1].digamma()).mean()
    return float(ends.digamma().sum() - marginal)
