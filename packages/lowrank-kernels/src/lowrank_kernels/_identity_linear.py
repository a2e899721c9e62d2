"""The linear product with an identity block."""

import torch
import torch.nn.functional as F
from torch import Tensor, addmm, mm

from lowrank_kernels._identity_checks import check_identity, sizes_agree


def lowrank_linear_identity(
    x: Tensor,
    head: Tensor,
    tail: Tensor,
    order: Tensor | None = None,
    head_bias: Tensor | None = None,
    tail_bias: Tensor | None = None,
) -> Tensor:
    """Return the product with a weight of which r rows are stored and the others are made of them.

    `h = x @ head.T + head_bias`, `y = [h, h @ tail.T + tail_bias][..., order]`. With the fields of
    `identity_block(down, up, bias, rank)` for arguments it equals
    `lowrank_linear(x, down, up, bias, rank)` at `2·N·r·(n + m - r)` FLOPs, never more than dense.

    Putting the outputs into their order copies them once. Where what follows can take them as they
    are, leave `order` out and permute that instead: the next weight is `W[:, order.argsort()]`.

    Args:
        x: inputs `[..., n]`, any leading axes; float64, float32, float16 or bfloat16.
        head: `[r, n]`, of the same dtype and device; any strides.
        tail: `[m - r, r]`, likewise.
        order: `[m]` int64, where each output is found in `[h, tail h]`; None leaves them so. A
            permutation: that none is missing is not checked, as it would take a sort a call.
        head_bias: `[r]` or None.
        tail_bias: `[m - r]` or None.

    Returns:
        `[..., m]`, of the dtype of `x`, or of autocast where that is on.

    Raises:
        ValueError: a shape, device or index breaks the rules above.
        TypeError: a dtype or type does.

    Example:
        >>> import torch
        >>> x, head, tail = torch.ones(2, 3), torch.ones(1, 3), torch.tensor([[5.0], [7.0]])
        >>> lowrank_linear_identity(x, head, tail, torch.tensor([1, 0, 2]))
        tensor([[15.,  3., 21.],
                [15.,  3., 21.]])
    """
    try:
        if sizes_agree(x, head, tail, order, head_bias, tail_bias):
            return _product(x, head, tail, order, head_bias, tail_bias)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        check_identity(x, head, tail, order, head_bias, tail_bias)
        raise
    check_identity(x, head, tail, order, head_bias, tail_bias)
    raise AssertionError("a refused product that breaks no rule")


def _product(
    x: Tensor,
    head: Tensor,
    tail: Tensor,
    order: Tensor | None,
    head_bias: Tensor | None,
    tail_bias: Tensor | None,
) -> Tensor:
    if x.dim() == 2:
        h = _affine(x, head, head_bias)
        y = torch.cat([h, _affine(h, tail, tail_bias)], 1)
    else:
        h = F.linear(x, head, head_bias)
        y = torch.cat([h, F.linear(h, tail, tail_bias)], -1)
    # index_select walks down the columns, two to three times slower in 16 bits
    return y if order is None else y.gather(-1, order.expand(y.shape))


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # the products that F.linear ends in, without its own transpositions
    return mm(x, weight.t()) if bias is None else addmm(bias, x, weight.t())
