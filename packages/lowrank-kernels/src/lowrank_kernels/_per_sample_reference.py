"""The specification of the product with a rank for each sample, slow and obvious."""

import torch
from torch import Tensor

from lowrank_kernels._linear_reference import lowrank_linear_reference


def lowrank_linear_per_sample_reference(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    ranks: Tensor | None = None,
    *,
    inner_bias: Tensor | None = None,
) -> Tensor:
    """Return each row's product at its own rank, one after the other.

    Args:
        x: inputs `[*batch, ..., n]`.
        down: first factor `[R, n]`.
        up: second factor `[m, R]`.
        bias: `[m]` or None.
        ranks: integers 0..R, `[*batch]`: as many of the leading axes of x as it has; None is R.
        inner_bias: `[R]` or None.

    Returns:
        `[*batch, ..., m]`.

    Example:
        >>> import torch
        >>> x, down, up = torch.ones(3, 2), torch.ones(4, 2), torch.ones(1, 4)
        >>> lowrank_linear_per_sample_reference(x, down, up, ranks=torch.tensor([0, 1, 4]))
        tensor([[0.],
                [2.],
                [8.]])
    """
    lead = x.shape[:-1]
    ranks = torch.tensor(down.shape[0]) if ranks is None else ranks
    each = ranks[(..., *[None] * (len(lead) - ranks.dim()))].expand(lead).flatten()
    y = [
        lowrank_linear_reference(row, down, up, bias, int(r), inner_bias=inner_bias)
        for row, r in zip(x.reshape(-1, x.shape[-1]), each, strict=True)
    ]
    return torch.stack(y).reshape(*lead, -1) if y else x.new_zeros(*lead, up.shape[0])
