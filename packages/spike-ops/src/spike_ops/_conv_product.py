"""Convolutions of spikes, for autograd and for compiled graphs."""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spike_ops._autograd import apply, differentiated_again, without_autocast
from spike_ops._bits import in_numpy
from spike_ops._conv import conv, conv_input, conv_shape, conv_weight
from spike_ops._conv_shape import ConvShape
from spike_ops._cost import Method
from spike_ops._ops import spikes_conv, spikes_conv_weight
from spike_ops._spike_tensor import SpikeTensor

Sizes = tuple[int, ...]


class ConvOptions(NamedTuple):
    """Stride, padding and dilation along each spatial axis, and groups."""

    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int


def convolve(
    spikes: SpikeTensor,
    weight: Tensor,
    bias: Tensor | None,
    options: ConvOptions,
    method: Method = "auto",
) -> Tensor:
    """Return the convolution of spikes [B, C, ...]; outside autograd."""
    if spikes.dtype != weight.dtype:
        kinds = f"{spikes.dtype} and {weight.dtype}"
        raise TypeError(f"spikes and weight must have one dtype, got {kinds}")
    if in_numpy(spikes._packed):
        shape = _known_shape(tuple(spikes.shape), tuple(weight.shape), options)
        return conv(spikes._index, shape, weight, bias, method)
    lists = [list(each) for each in options[:3]]
    sizes = list(spikes.shape)
    return spikes_conv(spikes._packed, sizes, weight, bias, *lists, options.groups, method)


@lru_cache(maxsize=256)
def _known_shape(spikes: Sizes, weight: Sizes, options: ConvOptions) -> ConvShape:
    return conv_shape(spikes, weight, *options)


def kernel_gradient(
    spikes: SpikeTensor,
    kernel: Sizes,
    gradient: Tensor,
    options: ConvOptions,
    method: Method = "auto",
) -> Tensor:
    """Return the gradient of a kernel of that shape; outside autograd."""
    shape = conv_shape(spikes.shape, kernel, *options)
    if in_numpy(spikes._packed):
        return conv_weight(spikes._index, shape, gradient, method)
    lists = [list(each) for each in options[:3]]
    sizes = (list(spikes.shape), list(kernel))
    packed = spikes._packed
    return spikes_conv_weight(packed, *sizes, gradient, *lists, options.groups, method)


def spikes_gradient(
    spikes: Tensor, weight: Tensor, gradient: Tensor, options: ConvOptions
) -> Tensor:
    """Return the gradient of spikes of that shape: dense."""
    return conv_input(conv_shape(spikes.shape, weight.shape, *options), weight, gradient)


def spike_convolution(
    spikes: SpikeTensor,
    weight: Tensor,
    bias: Tensor | None,
    options: ConvOptions,
    method: Method,
) -> Tensor:
    """Return the convolution; through autograd only where somebody wants a gradient."""
    given = (spikes, weight) if bias is None else (spikes, weight, bias)
    if torch.is_grad_enabled() and any(each.requires_grad for each in given):
        result: Tensor = apply(Convolution, spikes, weight, bias, options, method)
        return result
    return convolve(spikes, weight, bias, options, method)


class Convolution(torch.autograd.Function):
    """A convolution by a method; the kernel's gradient goes by the same method."""

    @staticmethod
    def forward(
        ctx: Any,
        spikes: SpikeTensor,
        weight: Tensor,
        bias: Tensor | None,
        options: ConvOptions,
        method: Method,
    ) -> Tensor:
        ctx.save_for_backward(spikes, weight)
        ctx.options, ctx.method = options, method
        return convolve(spikes, weight, bias, options, method)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        spikes, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        options, (gradient,) = ctx.options, gradients
        if differentiated_again():
            return *_dense_gradients(gradient, spikes, weight, options, needs[:3]), None, None
        result: list[Tensor | None] = [None] * 5
        if needs[0]:
            result[0] = spikes_gradient(spikes, weight, gradient, options)
        if needs[1]:
            result[1] = kernel_gradient(spikes, weight.shape, gradient, options, ctx.method)
        if needs[2]:
            result[2] = gradient.flatten(2).sum((0, 2))
        return tuple(result)


def _dense_gradients(
    gradient: Tensor, spikes: SpikeTensor, weight: Tensor, options: ConvOptions, needs: Sizes
) -> tuple[Tensor | None, ...]:
    """Return the gradients of spikes, kernel and bias as torch does, which can derive them."""
    stride, padding, dilation, groups = options
    turned = (False, [0] * len(stride), groups, list(needs))
    bias = [len(weight)]
    backward = torch.ops.aten.convolution_backward.default
    given = (gradient, spikes.to_dense(), weight, bias, stride, padding, dilation, *turned)
    result: tuple[Tensor | None, ...] = backward(*given)
    return result
