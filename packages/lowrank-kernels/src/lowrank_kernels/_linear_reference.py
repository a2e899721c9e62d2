"""The specification of the low-rank linear product, slow and obvious."""

import torch.nn.functional as F
from torch import Tensor


def lowrank_linear_reference(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    rank: int | Tensor | None = None,
    *,
    inner_bias: Tensor | None = None,
) -> Tensor:
    """Return `x @ W_r.T + bias` with the dense weight `W_r = up[:, :r] @ down[:r]`.

    An inner bias b adds `up[:, :r] @ b[:r]`.

    Args:
        x: inputs `[..., n]`.
        down: first factor `[R, n]`.
        up: second factor `[m, R]`.
        bias: `[m]` or None.
        rank: r in 0..R; None is R.
        inner_bias: `[R]` or None.

    Returns:
        `[..., m]`.

    Example:
        >>> import torch
        >>> x, down, up = torch.ones(1, 2), torch.ones(3, 2), torch.ones(1, 3)
        >>> lowrank_linear_reference(x, down, up, rank=2)
        tensor([[4.]])
    """
    r = down.shape[0] if rank is None else int(rank)
    W = up[:, :r] @ down[:r]  # [m, n]
    y = F.linear(x, W, bias)
    return y if inner_bias is None else y + up[:, :r] @ inner_bias[:r]
