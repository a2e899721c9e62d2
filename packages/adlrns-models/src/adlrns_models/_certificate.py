"""What a sketch proves about the loss of a truncated layer."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from adlrns_models._factorize import Factorization


class LossBounds(NamedTuple):
    """A certified interval for ``tr(E C E')``, the loss of a layer at one rank.

    Attributes:
        lower: never above the true loss.
        estimate: the point estimate that allocation uses.
        upper: never below the true loss.
    """

    lower: float
    estimate: float
    upper: float


def loss_bounds(factors: "Factorization", rank: int) -> LossBounds:
    """Returns ``lower <= tr(E C E') <= lower + Delta * sum_{i <= rho / Delta} sigma_i(E)^2``.

    ``C - B'B`` is positive semi-definite, at most ``Delta`` in norm and exactly ``rho`` in trace.
    By von Neumann's inequality the loss it can add is largest when its mass sits on the leading
    right singular vectors of ``E``, ``Delta`` on each until ``rho`` is used up.
    """
    if not 0 <= rank <= factors.max_rank:
        raise ValueError(f"rank must be in 0..{factors.max_rank}, got {rank}")
    lower, estimate = float(factors.lower[rank]), float(factors.loss[rank])
    # the columns of up are orthonormal, so E's singular values are those of the rows left out
    squares = torch.linalg.eigvalsh(factors.gram[rank:, rank:]).flip(0).clamp(min=0.0)
    if squares.numel() == 0:
        return LossBounds(0.0, 0.0, 0.0)
    rounding = factors.rounding * float(squares[0])
    upper = lower + _reach(squares, factors.error_bound, factors.residual_mass) + rounding
    return LossBounds(max(0.0, lower - rounding), min(estimate, upper), upper)


def _reach(squares: Tensor, delta: float, rho: float) -> float:
    """The most that a mass ``rho``, at most ``delta`` a direction, adds to the loss."""
    if delta <= 0.0:
        return 0.0
    full, part = divmod(rho / delta, 1.0)
    count = min(int(full), squares.numel())
    reach = float(squares[:count].sum())
    if count < squares.numel():
        reach += part * float(squares[count])
    return delta * reach
