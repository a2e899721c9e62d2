"""The low-rank embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, is_grad_enabled
from torch.compiler import is_compiling

from lowrank_kernels import _checks
from lowrank_kernels._autocast import autocast_dtype, cast
from lowrank_kernels._embedding_checks import check_embedding, sizes_agree
from lowrank_kernels._traced import traced_rank
from lowrank_kernels._transforms import leading, transformed
from lowrank_kernels._types import Rank


def lowrank_embedding(
    indices: Tensor,
    table: Tensor,
    up: Tensor,
    rank: Rank = None,
    *,
    padding_idx: int | None = None,
) -> Tensor:
    """Return the rows of a factored embedding table at its first `rank` directions.

    `y = table[indices, :r] @ up[:, :r].T`: rows of the dense table `E_r = table[:, :r] up[:, :r]ᵀ`,
    `[V, d]`, that is never formed. It holds `R(V + d)` numbers instead of `V·d`, and costs
    `2·N·r·d` FLOPs for N indices, where a dense table costs a copy of N rows.

    Ranks, gradients and graphs are as for `lowrank_linear`: only the first r columns of both
    factors are used and get a gradient, and a rank in a 0-dim tensor is read when a compiled graph
    runs. (Such a graph gathers all R columns; exported programs and eager code gather r.)

    Args:
        indices: int64 or int32, of any shape, in 0..V-1.
        table: first factor `[V, R]`; float64, float32, float16 or bfloat16, any strides.
        up: second factor `[d, R]`, of the same dtype and device.
        rank: r in 0..R as an int or a 0-dim integer tensor; None is R, 0 gives zeros.
        padding_idx: where an index is this one, in -V..V-1, nothing is sent back: neither to
            that row of `table` nor to `up`.

    Returns:
        `[..., d]`, of the dtype of the factors, or of autocast where that is on.

    Raises:
        ValueError: a shape, device, rank or index breaks the rules above.
        TypeError: a dtype or type does.

    Example:
        >>> import torch
        >>> table, up = torch.ones(1000, 16), torch.ones(64, 16)
        >>> lowrank_embedding(torch.tensor([[1, 2, 3]]), table, up, rank=4).shape
        torch.Size([1, 3, 64])
    """
    if is_compiling():
        return _traced(indices, table, up, rank, padding_idx)
    try:
        size = table.shape[1]
        r = rank if rank.__class__ is int else _checks.rank_value(rank, size)
        if 0 <= r <= size and sizes_agree(indices, table, up, padding_idx):
            y = F.linear(F.embedding(indices, table[:, :r]), up[:, :r])
            return y if padding_idx is None else _padded(y, indices, padding_idx, table.shape[0])
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        check_embedding(indices, table, up, rank, padding_idx)
        raise
    check_embedding(indices, table, up, rank, padding_idx)
    raise AssertionError("a refused embedding that breaks no rule")


def _traced(
    indices: Tensor, table: Tensor, up: Tensor, rank: Rank, padding_idx: int | None
) -> Tensor:
    """Return the embedding in a graph."""
    check_embedding(indices, table, up, None, padding_idx)
    r = traced_rank(rank, table.shape[1])
    if isinstance(r, Tensor):
        return embedding_at(indices, table, up, r, padding_idx)
    y = F.linear(F.embedding(indices, table[:, :r]), up[:, :r])
    return y if padding_idx is None else _padded(y, indices, padding_idx, table.shape[0])


def embedding_at(
    indices: Tensor, table: Tensor, up: Tensor, rank: Tensor, padding_idx: int | None = None
) -> Tensor:
    """Return the embedding at the rank that the tensor holds when the graph runs."""
    if transformed():
        D, U, _ = leading(table.t(), up, None, rank)
        y = F.linear(F.embedding(indices, D.t()), U)
        return y if padding_idx is None else _padded(y, indices, padding_idx, table.shape[0])
    dtype = autocast_dtype(table)
    h = cast(F.embedding(indices.flatten(), table), dtype)  # [N, R]
    y = torch.ops.lowrank_kernels.expand(h, cast(up, dtype).t(), rank)
    y = y.reshape(*indices.shape, up.shape[0])
    return y if padding_idx is None else _padded(y, indices, padding_idx, table.shape[0])


def _padded(y: Tensor, indices: Tensor, padding_idx: int, rows: int) -> Tensor:
    """Return `y`, cut off from the graph where the index is that of the padding."""
    if not is_grad_enabled():
        return y
    padding = padding_idx + rows if padding_idx < 0 else padding_idx
    return y.detach().where((indices == padding).unsqueeze(-1), y)
