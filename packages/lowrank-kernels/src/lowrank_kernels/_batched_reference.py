"""The specification of the product of several layers, slow and obvious."""

import torch
from torch import Tensor

from lowrank_kernels._linear_reference import lowrank_linear_reference


def lowrank_linear_batched_reference(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    ranks: Tensor | None = None,
    *,
    inner_bias: Tensor | None = None,
) -> Tensor:
    """Return the product of each layer with its own input, one after the other.

    Args:
        x: inputs `[L, ..., n]`.
        down: first factors `[L, R, n]`.
        up: second factors `[L, m, R]`.
        bias: `[L, m]` or None.
        ranks: integers 0..R, `[L]`; None is R.
        inner_bias: `[L, R]` or None.

    Returns:
        `[L, ..., m]`.

    Example:
        >>> import torch
        >>> x, down, up = torch.ones(2, 1, 3), torch.ones(2, 4, 3), torch.ones(2, 1, 4)
        >>> lowrank_linear_batched_reference(x, down, up, ranks=torch.tensor([1, 4])).flatten()
        tensor([ 3., 12.])
    """
    y = [
        lowrank_linear_reference(
            x[i],
            down[i],
            up[i],
            None if bias is None else bias[i],
            None if ranks is None else int(ranks[i]),
            inner_bias=None if inner_bias is None else inner_bias[i],
        )
        for i in range(x.shape[0])
    ]
    return torch.stack(y) if y else x.new_zeros(*x.shape[:-1], up.shape[1])
