"""What truncation loses of each sample's output, from the inner values alone."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer

# a Gram matrix as near to the identity as this is treated as one, with the distance in the bound
NEARLY = 1e-2


def rows_of(layer: "DynamicLayer", z: Tensor) -> Tensor:
    """Returns inner values as float64 rows ``[N, positions, r]``, without a graph."""
    rows = z.detach().movedim(layer.dim, -1)
    return rows.reshape(rows.shape[0], rows.shape[1:-1].numel(), rows.shape[-1]).double()


def gram_of(up: Tensor) -> Tensor:
    """Returns ``up' up [R, R]`` in float64."""
    wide = up.detach().double()
    return wide.T @ wide


def distance(gram: Tensor) -> float:
    """Returns ``|G - I|_F``, at least how far columns are from orthonormal."""
    return float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).norm())


def truncation_errors(rows: Tensor, gram: Tensor) -> Tensor:
    """Returns ``[N, r + 1]``: ``sum |up[:, k:] z[k:]|^2`` over a sample's rows, ``k = 0..r``.

    Exact for any factor: with ``G = up' up``, leaving out direction ``k`` as well adds
    ``z_k (G_kk z_k + 2 sum_{i > k} G_ki z_i)``.

    Args:
        rows: ``[N, positions, r]`` inner values.
        gram: ``[r, r]``.
    """
    later = 2.0 * gram.triu(1) + gram.diag().diag()
    return tail_sums((rows * (rows @ later.T)).sum(1)).clamp(min=0.0)


def energies(rows: Tensor) -> Tensor:
    """Returns ``[N, r + 1]``: ``sum_{i >= k} z_i^2`` over a sample's rows, ``k = 0..r``.

    What :func:`truncation_errors` gives for orthonormal columns, in a pass over the rows.
    """
    return tail_sums(rows.square().sum(1))


def tail_sums(terms: Tensor) -> Tensor:
    """Returns the sums of ``terms[:, k:]`` for ``k = 0..r``."""
    sums = terms.flip(1).cumsum(1).flip(1)
    return torch.cat([sums, sums.new_zeros(len(sums), 1)], 1)


def finite_sum(tails: Tensor) -> Tensor:
    """Returns the sum ``[1, r + 1]`` over the samples whose numbers are numbers."""
    usable = tails[:, :1].isfinite()
    return torch.where(usable, tails, 0.0).sum(0, keepdim=True)
