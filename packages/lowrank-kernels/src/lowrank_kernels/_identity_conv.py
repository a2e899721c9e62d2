"""The convolution with an identity block."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank_kernels._identity_checks import check_identity_conv2d, sizes_agree
from lowrank_kernels._types import Padding, Pair


def lowrank_conv2d_identity(
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
    """Return the convolution with a kernel of which r filters are stored, the others made of them.

    `h = conv2d(x, head) + head_bias`, `y = [h, conv1x1(h, tail) + tail_bias]`, its channels put
    into their order: `lowrank_linear_identity` at every pixel. The fields of
    `identity_block(down, up, bias, rank)` with a `down [R, c, kh, kw]` are its arguments.

    Args:
        x: images `[N, c, H, W]` or `[c, H, W]`.
        head: `[r, c, kh, kw]`.
        tail: `[m - r, r]`.
        order: `[m]` int64, where each channel is found in `[h, tail h]`; None leaves them so. A
            permutation: that none is missing is not checked, as it would take a sort a call.
        head_bias: `[r]` or None.
        tail_bias: `[m - r]` or None.
        stride: of the first convolution, one int or two.
        padding: of the first convolution: an int, two, `"same"` or `"valid"`.
        dilation: of the first convolution, one int or two.

    Returns:
        `[N, m, H', W']` or `[m, H', W']`.

    Raises:
        ValueError: a shape, device, index or option breaks the rules above.
        TypeError: a dtype or type does.

    Example:
        >>> import torch
        >>> x, head, tail = torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3), torch.ones(4, 3)
        >>> lowrank_conv2d_identity(x, head, tail, padding="same").shape
        torch.Size([1, 7, 5, 5])
    """
    try:
        if head.dim() == 4 and sizes_agree(x, head, tail, order, head_bias, tail_bias):
            h = F.conv2d(x, head, head_bias, stride, padding, dilation)
            y = torch.cat([h, _second(h, tail, tail_bias)], -3)
            return y if order is None else y.index_select(-3, order)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        check_identity_conv2d(x, head, tail, order, head_bias, tail_bias, stride, padding, dilation)
        raise
    check_identity_conv2d(x, head, tail, order, head_bias, tail_bias, stride, padding, dilation)
    raise AssertionError("a refused convolution that breaks no rule")


def _second(h: Tensor, tail: Tensor, bias: Tensor | None) -> Tensor:
    if tail.shape[0]:
        return F.conv2d(h, tail[..., None, None], bias)
    # torch has no convolution into no channel
    t = (tail @ h.flatten(-2)).unflatten(-1, h.shape[-2:])
    return t if bias is None else t + bias[:, None, None]
