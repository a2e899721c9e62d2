"""The specification of the products with an identity block, slow and obvious."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank_kernels._types import Padding, Pair


def identity_weight(
    head: Tensor,
    tail: Tensor,
    order: Tensor | None = None,
    head_bias: Tensor | None = None,
    tail_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the dense weight and bias that a product with an identity block stands for.

    `W = [I; tail][order] head`, in the shape of `head` with m rows, and `[m]`.

    Example:
        >>> import torch
        >>> W, b = identity_weight(torch.ones(1, 2), torch.tensor([[3.0]]), torch.tensor([1, 0]))
        >>> W.tolist(), b.tolist()
        ([[3.0, 3.0], [1.0, 1.0]], [0.0, 0.0])
    """
    r = head.shape[0]
    second = torch.cat([torch.eye(r).to(head), tail])  # [m, r]
    W = (second @ head.flatten(1)).reshape(-1, *head.shape[1:])
    b = head.new_zeros(second.shape[0])
    if head_bias is not None:
        b = b + second @ head_bias
    if tail_bias is not None:
        b = b + torch.cat([head.new_zeros(r), tail_bias])
    return (W, b) if order is None else (W[order], b[order])


def lowrank_linear_identity_reference(
    x: Tensor,
    head: Tensor,
    tail: Tensor,
    order: Tensor | None = None,
    head_bias: Tensor | None = None,
    tail_bias: Tensor | None = None,
) -> Tensor:
    """Return what `lowrank_linear_identity` does, by the dense weight; same arguments.

    Example:
        >>> import torch
        >>> lowrank_linear_identity_reference(
        ...     torch.ones(1, 3), torch.ones(1, 3), torch.tensor([[5.0]])
        ... )
        tensor([[ 3., 15.]])
    """
    return F.linear(x, *identity_weight(head, tail, order, head_bias, tail_bias))


def lowrank_conv2d_identity_reference(
    x: Tensor,
    head: Tensor,
    tail: Tensor,
    order: Tensor | None = None,
    head_bias: Tensor | None = None,
    tail_bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> Tensor:
    """Return what `lowrank_conv2d_identity` does, by the dense kernel; same arguments."""
    W, b = identity_weight(head, tail, order, head_bias, tail_bias)
    if not W.shape[0]:  # torch has no convolution into no channel
        raise ValueError("head and tail must have a row between them")
    return F.conv2d(x, W, b, stride, padding, dilation)
