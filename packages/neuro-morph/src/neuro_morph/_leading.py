"""The largest singular values of a matrix, and what they belong to."""

import torch
from torch import Tensor

_SMALL = 192  # below, all of them are found as fast
_SPARE = 8
_ROUNDS = 30
_SETTLED = 1e-6


def leading_svd(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the ``count`` largest singular values as ``u, s, v'``, the largest first.

    Large matrices of which few are wanted are looked at by block iteration in float32, until no
    value moves by more than 1e-6 of the largest; a last round in the matrix's own precision leaves
    their errors as the square of that. It begins with the same numbers every time.

    Args:
        matrix: ``[m, n]``.
        count: how many, at most the smaller of ``m`` and ``n``.

    Source: Halko, Martinsson, Tropp, finding structure with randomness (SIAM Review 2011),
    algorithm 4.4.
    """
    least = min(matrix.shape)
    if least <= _SMALL or 3 * (count + _SPARE) > least:
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :count], s[:count], v[:count]
    left = _range(matrix, count)
    u, s, v = torch.linalg.svd(left.mT @ matrix, full_matrices=False)
    return left @ u[:, :count], s[:count], v[:count]


def _range(matrix: Tensor, count: int) -> Tensor:
    """Returns an orthonormal basis of what the largest singular values span, and a little more."""
    start = torch.Generator().manual_seed(0)
    block = torch.randn(matrix.shape[1], count + _SPARE, generator=start).to(matrix.device)
    rough = matrix.float()
    left, before = torch.linalg.qr(rough @ block)[0], rough.new_zeros(count)
    for _ in range(_ROUNDS):
        right = torch.linalg.qr(rough.mT @ left)[0]
        left, r = torch.linalg.qr(rough @ right)
        values = torch.linalg.svdvals(r)[:count]
        if float((values - before).abs().max()) <= _SETTLED * float(values.max()):
            break
        before = values
    right = torch.linalg.qr(matrix.mT @ left.to(matrix))[0]
    return torch.linalg.qr(matrix @ right)[0]
