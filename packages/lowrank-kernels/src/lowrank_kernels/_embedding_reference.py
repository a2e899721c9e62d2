"""The specification of the low-rank embedding, slow and obvious."""

import torch.nn.functional as F
from torch import Tensor


def lowrank_embedding_reference(
    indices: Tensor,
    table: Tensor,
    up: Tensor,
    rank: int | Tensor | None = None,
    *,
    padding_idx: int | None = None,
) -> Tensor:
    """Return the rows of the dense table `E_r = table[:, :r] @ up[:, :r].T` at the indices.

    Args:
        indices: int64 or int32, of any shape, in 0..V-1.
        table: first factor `[V, R]`.
        up: second factor `[d, R]`.
        rank: r in 0..R; None is R.
        padding_idx: the row that collects no gradient, in -V..V-1, or None.

    Returns:
        `[..., d]`.

    Example:
        >>> import torch
        >>> table, up = torch.arange(6.0).reshape(3, 2), torch.ones(4, 2)
        >>> lowrank_embedding_reference(torch.tensor([2]), table, up, rank=1)
        tensor([[4., 4., 4., 4.]])
    """
    r = table.shape[1] if rank is None else int(rank)
    E = table[:, :r] @ up[:, :r].T  # [V, d]
    return F.embedding(indices, E, padding_idx)
