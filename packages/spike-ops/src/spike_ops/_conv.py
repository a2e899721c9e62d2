"""Convolutions of spikes, on plain tensors: no autograd here."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spike_ops import _native
from spike_ops._calibration import calibration
from spike_ops._conv_cost import most, plan_conv
from spike_ops._conv_event import event_conv
from spike_ops._conv_grad import event_conv_weight
from spike_ops._conv_native import native_conv, native_conv_weight
from spike_ops._conv_pointwise import pointwise, takes
from spike_ops._conv_shape import ConvShape
from spike_ops._cost import Method
from spike_ops._dense import unpacked
from spike_ops._event import GATHERED
from spike_ops._index import SpikeIndex

aten = torch.ops.aten


def conv_shape(
    spikes: Sequence[int],
    weight: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> ConvShape:
    """Return the sizes of a convolution.

    Raises:
        ValueError: Channels, groups and kernel do not fit, or nothing is left of the input.
    """
    (batch, channels, *sides), (outputs, each, *kernel) = spikes, weight
    if channels != each * groups or outputs % groups:
        shapes = f"{tuple(spikes)}, {tuple(weight)} and {groups} groups"
        raise ValueError(f"spikes [B, C, ...] need a weight [O, C / groups, ...], got {shapes}")
    options = [tuple(stride), tuple(padding), tuple(dilation)]
    axes = len(sides)
    stride, padding, dilation = (each * axes if len(each) == 1 else each for each in options)
    shape = ConvShape(
        batch, channels, tuple(sides), outputs, tuple(kernel), stride, padding, dilation, groups
    )
    if min(shape.out_sides, default=0) < 1:
        raise ValueError(f"nothing is left of spikes {tuple(spikes)} by a kernel {tuple(kernel)}")
    return shape


def conv(
    index: SpikeIndex,
    shape: ConvShape,
    weight: Tensor,
    bias: Tensor | None = None,
    method: Method = "auto",
) -> Tensor:
    """Return the convolution [B, O, ...]."""
    if takes(shape, index.packed, weight):
        return _biased(pointwise(index, shape, weight, method), bias)
    if shape.size and _by_event(index, shape, weight, method):
        return _biased(_event(index, shape, weight), bias)
    return aten.convolution(_dense(index, shape, weight), weight, bias, *_options(shape))


def _by_event(
    index: SpikeIndex, shape: ConvShape, beside: Tensor, method: Method, *, transposed: bool = False
) -> bool:
    """Say whether a convolution goes by additions: what `plan_conv` decides."""
    dtype, device = beside.dtype, beside.device.type
    if method == "auto" and device == "cpu" and calibration().kernels and dtype in GATHERED:
        return index.count < most(shape, dtype, transposed)
    plan = plan_conv(
        shape, index.count, dtype=dtype, device=device, method=method, transposed=transposed
    )
    return plan.method == "event"


def _biased(fresh: Tensor, bias: Tensor | None) -> Tensor:
    return fresh if bias is None else fresh.add_(bias.view(-1, *[1] * (fresh.ndim - 2)))


def _dense(index: SpikeIndex, shape: ConvShape, beside: Tensor) -> Tensor:
    sizes = (shape.batch, shape.channels, *shape.sides)
    # images are read channels last without a copy, whatever comes in
    last = len(shape.sides) == 2 and math.prod(shape.kernel) > 1
    return unpacked(index.packed, sizes, beside, channels_last=last)


def _event(index: SpikeIndex, shape: ConvShape, weight: Tensor) -> Tensor:
    if _native.knows(weight.dtype) and _native.takes(weight, index.packed):
        return native_conv(index, shape, weight)
    return event_conv(index.positions, shape, weight)


def conv_weight(
    index: SpikeIndex, shape: ConvShape, gradient: Tensor, method: Method = "auto"
) -> Tensor:
    """Return the gradient of the kernel."""
    kernel = gradient.new_empty(shape.outputs, shape.channels // shape.groups, *shape.kernel)
    if shape.size and _by_event(index, shape, gradient, method, transposed=True):
        if _native.knows(gradient.dtype) and _native.takes(gradient, index.packed):
            return native_conv_weight(index, shape, gradient)
        return event_conv_weight(index.positions, shape, gradient)
    dense = _dense(index, shape, gradient)
    mask = [False, True, False]
    return aten.convolution_backward(gradient, dense, kernel, None, *_options(shape), mask)[1]


def conv_input(shape: ConvShape, weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the spikes: dense."""
    spikes = gradient.new_empty(1).expand(shape.batch, shape.channels, *shape.sides)
    mask = [True, False, False]
    return aten.convolution_backward(gradient, spikes, weight, None, *_options(shape), mask)[0]


def _options(shape: ConvShape) -> tuple[object, ...]:
    none = [0] * len(shape.sides)
    return (shape.stride, shape.padding, shape.dilation, False, none, shape.groups)
