"""Convolutions of spikes."""

import math
from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor

from spike_ops._autograd import in_autocast_type
from spike_ops._conv import conv_shape
from spike_ops._conv_cost import plan_conv
from spike_ops._conv_product import ConvOptions, spike_convolution
from spike_ops._cost import Method, ProductPlan
from spike_ops._overrides import overridable
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.functional._mm import as_spikes, check_method

Sizes = int | Sequence[int]


@overridable
def conv1d(
    spikes: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    method: Method = "auto",
) -> Tensor:
    """Return the convolution of spikes [..., C, L] with a kernel [O, C/groups, k].

    As `conv2d`, along one axis.

    Example:
        >>> import torch
        >>> spikes = torch.tensor([[[1.0, 0.0, 0.0, 1.0]]])
        >>> conv1d(spikes, torch.tensor([[[1.0, 2.0, 3.0]]]), padding=1)
        tensor([[[2., 1., 3., 2.]]])
    """
    return _conv(1, spikes, weight, bias, stride, padding, dilation, groups, method)


@overridable
def conv2d(
    spikes: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    method: Method = "auto",
) -> Tensor:
    """Return the convolution of spikes [..., C, H, W] with a kernel [O, C/groups, k, k].

    The event path adds, for each output position, the rows of the kernel of the spikes in its
    window; it never multiplies and does not depend on the rest of the batch. Its result lies in
    memory channels last. The kernel's gradient takes the same two ways; that of the spikes is
    dense.

    Args:
        spikes: A `SpikeTensor`, or zeros and ones [..., C, H, W]; all leading axes are a batch,
            time among them.
        weight: [O, C / groups, kernel height, kernel width].
        bias: [O], or None.
        stride: Of the window, one number or one an axis.
        padding: Zeros around the image, or `"same"` or `"valid"`.
        dilation: Distance of the kernel's elements.
        groups: Channels and outputs fall into that many separate groups.
        method: `"event"`, `"dense"`, or `"auto"` for the cheaper by the calibration in use.

    Returns:
        [..., O, height, width] in the type of the weight.

    Raises:
        ValueError: Sizes or method do not fit, or spikes are not zeros and ones.
        TypeError: Spikes and weight have not one type.

    Example:
        >>> import torch
        >>> spikes = torch.eye(3).view(1, 1, 3, 3)
        >>> conv2d(spikes, torch.ones(1, 1, 2, 2))
        tensor([[[[2., 1.],
                  [1., 2.]]]])
    """
    return _conv(2, spikes, weight, bias, stride, padding, dilation, groups, method)


@overridable
def conv3d(
    spikes: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    method: Method = "auto",
) -> Tensor:
    """Return the convolution of spikes [..., C, D, H, W] with a kernel [O, C/groups, k, k, k].

    As `conv2d`, along three axes.

    Example:
        >>> import torch
        >>> conv3d(torch.ones(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)).item()
        8.0
    """
    return _conv(3, spikes, weight, bias, stride, padding, dilation, groups, method)


def explain_conv(
    spikes: Tensor,
    weight: Tensor,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    method: Method = "auto",
) -> ProductPlan:
    """Return which way a convolution takes, and what each way is expected to cost.

    The number of spatial axes is that of the weight; arguments are those of `conv2d`.

    Example:
        >>> import torch
        >>> explain_conv(torch.zeros(1, 64, 32, 32), torch.ones(64, 64, 3, 3), padding=1).method
        'event'
    """
    check_method(method)
    axes = weight.ndim - 2
    flat, options = _prepared(axes, spikes, weight, stride, padding, dilation, groups)
    shape = conv_shape(flat.shape, weight.shape, *options)
    return plan_conv(
        shape, flat.count, dtype=weight.dtype, device=weight.device.type, method=method
    )


def _conv(
    axes: int,
    spikes: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
    method: Method,
) -> Tensor:
    check_method(method)
    if weight.ndim != axes + 2 or (bias is not None and bias.shape != weight.shape[:1]):
        got = f"{tuple(weight.shape)} and {None if bias is None else tuple(bias.shape)}"
        raise ValueError(f"weight must have {axes + 2} axes and bias its first, got {got}")
    flat, options = _prepared(axes, spikes, weight, stride, padding, dilation, groups)
    flat, weight, bias = in_autocast_type(weight, flat, weight, bias)
    result = spike_convolution(flat, weight, bias, options, method)
    if spikes.ndim == axes + 2:
        return result
    return result.reshape(*spikes.shape[: -axes - 1], *result.shape[1:])


def _prepared(
    axes: int,
    spikes: Tensor,
    weight: Tensor,
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
) -> tuple[SpikeTensor, ConvOptions]:
    if spikes.ndim < axes + 1:
        raise ValueError(f"spikes must have {axes + 1} axes or more, got {tuple(spikes.shape)}")
    steps, apart = sizes_of("stride", stride, axes), sizes_of("dilation", dilation, axes)
    around = (0,) * axes
    if isinstance(padding, str):
        spikes, around = _same(spikes, weight, steps, apart, padding)
    else:
        around = sizes_of("padding", padding, axes, least=0)
    packed = as_spikes(spikes, weight.dtype)
    batch = math.prod(packed.shape[: -axes - 1])
    flat = packed if packed.ndim == axes + 2 else packed.reshape(batch, *packed.shape[-axes - 1 :])
    return cast(SpikeTensor, flat), ConvOptions(steps, around, apart, groups)


def _same(
    spikes: Tensor, weight: Tensor, stride: Sequence[int], apart: Sequence[int], padding: str
) -> tuple[Tensor, tuple[int, ...]]:
    """Return spikes and padding for a name; where the sides differ, the spikes are padded first."""
    if padding == "valid":
        return spikes, (0,) * len(apart)
    if padding != "same" or set(stride) != {1}:
        rule = '"valid", or "same" with stride 1'
        raise ValueError(f"padding must be numbers, {rule}, got {padding!r} and stride {stride}")
    total = [d * (k - 1) for d, k in zip(apart, weight.shape[2:], strict=True)]
    if any(each % 2 for each in total):
        more = [part for each in reversed(total) for part in (0, each % 2)]
        spikes = F.pad(spikes, more)
    return spikes, tuple(each // 2 for each in total)


def sizes_of(name: str, value: Sizes, axes: int, *, least: int = 1) -> tuple[int, ...]:
    """Return one number an axis.

    Raises:
        ValueError: Another number of them, or one below the least.
    """
    each = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(each) != axes or min(each) < least:
        raise ValueError(f"{name} must be {axes} numbers of at least {least}, got {value}")
    return each
