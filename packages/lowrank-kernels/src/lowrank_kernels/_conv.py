"""The low-rank convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from lowrank_kernels import _checks
from lowrank_kernels._autocast import autocast_dtype
from lowrank_kernels._conv_op import conv2d_at
from lowrank_kernels._geometry import Geometry
from lowrank_kernels._traced import traced_rank
from lowrank_kernels._types import Padding, Pair, Rank


def lowrank_conv2d(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    rank: Rank = None,
    *,
    inner_bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Return the convolution of `x` with the first `rank` directions of a factored kernel.

    `y = conv1x1(conv2d(x, down[:r]), up[:, :r]) + bias`: a convolution into r channels, then a
    1x1 convolution out of them. With `groups > 1` every group has its own pair of factors and
    its own r channels. An inner bias is added to those channels.

    Args:
        x: images `[N, c, H, W]` or `[c, H, W]`; float64, float32, float16 or bfloat16.
        down: `[R, c, kh, kw]`; `[groups, R, c/groups, kh, kw]` with `groups > 1`.
        up: `[m, R]`; `[groups, m/groups, R]` with `groups > 1`.
        bias: `[m]` or None.
        rank: r in 0..R, per group, as an int or a 0-dim integer tensor; None is R.
        inner_bias: `[R]`, `[groups, R]` with `groups > 1`, or None; added between the factors.
        stride: of the first convolution, one int or two.
        padding: of the first convolution: an int, two, `"same"` or `"valid"`.
        dilation: of the first convolution, one int or two.
        groups: how many groups of channels are convolved apart.

    Returns:
        `[N, m, H', W']` or `[m, H', W']`, of the dtype of `x`, or of autocast where that is on.

    Raises:
        ValueError: a shape, device, rank or option breaks the rules above.
        TypeError: a dtype or type does.

    Example:
        >>> import torch
        >>> x, down, up = torch.ones(1, 2, 5, 5), torch.ones(4, 2, 3, 3), torch.ones(6, 4)
        >>> lowrank_conv2d(x, down, up, rank=3, padding="same").shape
        torch.Size([1, 6, 5, 5])
    """
    if is_compiling():
        return _traced(x, down, up, bias, rank, inner_bias, stride, padding, dilation, groups)
    try:
        size = down.shape[-4]
        r = rank if rank.__class__ is int else _checks.rank_value(rank, size)
        if _sizes_agree(x, down, up, bias, r, inner_bias, groups):
            return _product(x, down, up, bias, r, inner_bias, stride, padding, dilation, groups)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        refuse(x, down, up, bias, rank, inner_bias, stride, padding, dilation, groups)
        raise
    refuse(x, down, up, bias, rank, inner_bias, stride, padding, dilation, groups)
    raise AssertionError("a refused convolution that breaks no rule")


def _traced(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    rank: Rank,
    inner: Tensor | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return the convolution in a graph."""
    refuse(x, down, up, bias, None, inner, stride, padding, dilation, groups)
    # an exported program cannot tell rank 0 apart, and torch convolves into one channel or more
    r = traced_rank(rank, down.shape[-4], least=1)
    if isinstance(r, Tensor):
        geometry = Geometry.of(stride, padding, dilation, groups, down.shape[-2:])
        return conv2d_at(x, down, up, bias, r, geometry, inner)
    return _product(x, down, up, bias, r, inner, stride, padding, dilation, groups)


def _sizes_agree(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    r: int,
    inner: Tensor | None,
    groups: int,
) -> bool:
    """Test the rules that torch would not notice being broken."""
    grouped = groups > 1
    features, size = up.shape[-2] * groups, down.shape[-4]
    return (
        groups.__class__ is int
        and 0 <= r <= size
        and down.dim() == 4 + grouped
        and up.dim() == 2 + grouped
        and up.shape[-1] == size
        and (not grouped or down.shape[0] == up.shape[0] == groups)
        and (bias is None or (bias.shape == (features,) and bias.is_meta is x.is_meta))
        and (inner is None or inner.shape == down.shape[:-3])
        # torch takes tensors without numbers for ones with any
        and down.is_meta is up.is_meta is x.is_meta
        and down.is_floating_point()
    )


def _product(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    r: int,
    inner: Tensor | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Tensor:
    if r == 0:
        refuse(x, down, up, bias, 0, inner, stride, padding, dilation, groups)
        return _bias_alone(x, down, up, bias, inner, stride, padding, dilation, groups)
    if groups == 1:
        b = None if inner is None else inner[:r]
        h = F.conv2d(x, down[:r], b, stride, padding, dilation)
        return F.conv2d(h, up[:, :r, None, None], bias)
    D = down[:, :r].flatten(0, 1)  # [groups·r, c/groups, kh, kw]
    U = up[:, :, :r].flatten(0, 1)  # [m, r]
    b = None if inner is None else inner[:, :r].flatten()
    h = F.conv2d(x, D, b, stride, padding, dilation, groups)
    return F.conv2d(h, U[..., None, None], bias, groups=groups)


def _bias_alone(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    inner: Tensor | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return the product of rank 0: torch has no convolution into no channel."""
    geometry = Geometry.of(stride, padding, dilation, groups, down.shape[-2:])
    features = groups * up.shape[-2]
    # sums over nothing are 0, connect the graph and send back exact zeros
    inputs = (x, down, up) if inner is None else (x, down, up, inner)
    nothing = torch.stack([t.flatten()[:0].sum() for t in inputs]).sum()
    dtype = autocast_dtype(x)
    y = x.new_zeros(*x.shape[:-3], features, *geometry.output(x.shape[-2:]), dtype=dtype)
    y = y + nothing.to(dtype)
    return y if bias is None else y + bias.to(dtype)[:, None, None]


def refuse(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: object,
    rank: object,
    inner: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: int,
) -> None:
    """Raise for the argument that breaks a rule, if one does."""
    _checks.check_conv2d(x, down, up, bias, groups, inner)
    _checks.rank_value(rank, down.shape[-4])
    geometry = Geometry.of(stride, padding, dilation, groups, down.shape[-2:])
    geometry.check_image("x", x.shape[-2:])
