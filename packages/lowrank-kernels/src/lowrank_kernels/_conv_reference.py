"""The specification of the low-rank convolution, slow and obvious."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank_kernels._types import Padding, Pair


def lowrank_conv2d_reference(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    rank: int | Tensor | None = None,
    *,
    inner_bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Return the convolution of `x` with the dense weight `W_r = up[:, :r] · down[:r]`.

    With `groups > 1` both factors have a leading axis of groups and every group its own product
    of rank r.

    Args:
        x: images `[N, c, H, W]` or `[c, H, W]`.
        down: `[R, c, kh, kw]`, or `[groups, R, c/groups, kh, kw]`.
        up: `[m, R]`, or `[groups, m/groups, R]`.
        bias: `[m]` or None.
        rank: r in 0..R, the same in every group; None is R.
        inner_bias: `[R]`, `[groups, R]` with `groups > 1`, or None.
        stride: as in `torch.nn.functional.conv2d`.
        padding: as there; also `"same"` and `"valid"`.
        dilation: as there.
        groups: as there.

    Returns:
        `[N, m, H', W']` or `[m, H', W']`.

    Example:
        >>> import torch
        >>> x, down, up = torch.ones(1, 1, 3, 3), torch.ones(2, 1, 3, 3), torch.ones(1, 2)
        >>> lowrank_conv2d_reference(x, down, up, rank=1).item()
        9.0
    """
    if groups == 1:
        down, up = down[None], up[None]
    r = down.shape[1] if rank is None else int(rank)
    W = torch.einsum("gor,grchw->gochw", up[:, :, :r], down[:, :r]).flatten(0, 1)
    if inner_bias is not None:
        inner = inner_bias.reshape(groups, -1)[:, :r]
        shift = torch.einsum("gor,gr->go", up[:, :, :r], inner).flatten()
        bias = shift if bias is None else bias + shift
    return F.conv2d(x, W, bias, stride, padding, dilation, groups)
