"""The loss of running given nested factors at each rank, whatever training made of them."""

import torch
from torch import Tensor


def prefix_loss(down: Tensor, up: Tensor, inner_bias: Tensor, rows: Tensor) -> Tensor:
    """Returns ``sum_x |up[:, r:] @ (down[r:] @ x + inner_bias[r:])|^2`` for ``r = 0..R``.

    With ``G = up' up`` and ``K`` the second moment of ``h = down @ x + inner_bias``, the loss at
    ``r`` is the sum of the trailing block of ``G * K``: no decomposition, and exact for the rows.
    Rows as they came know nothing of a sketch's shrinking, so the estimate is unbiased.

    Args:
        down: ``[R, n]``.
        up: ``[m, R]``.
        inner_bias: ``[R]``.
        rows: ``[k, n]`` inputs.

    Returns:
        ``[R + 1]`` float64.
    """
    dtype = torch.promote_types(down.dtype, torch.float32)  # sums of half numbers overflow
    down, up, inner_bias, rows = (t.to(dtype) for t in (down, up, inner_bias, rows))
    h = torch.addmm(inner_bias, rows, down.T)  # [k, R]
    h = h.double()  # squares of large activations leave the range of float32
    return trailing_block_sums((up.T @ up).double() * (h.T @ h))


def trailing_block_sums(matrix: Tensor) -> Tensor:
    """Returns ``sum(matrix[r:, r:])`` for ``r = 0..R``, never negative."""
    sums = matrix.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0)
    return torch.cat([sums, sums.new_zeros(1)]).clamp(min=0.0)
