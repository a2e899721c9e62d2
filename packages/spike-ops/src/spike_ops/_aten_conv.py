"""What torch's convolutions and poolings do with spikes."""

from typing import Any

import torch
from torch import Tensor

from spike_ops._conv_product import ConvOptions, convolve, kernel_gradient, spikes_gradient
from spike_ops._handlers import handles, packed_again
from spike_ops._spike_tensor import SpikeTensor, dense_of

aten = torch.ops.aten


@handles(aten.convolution.default)
def _convolution(
    spikes: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    if not isinstance(spikes, SpikeTensor) or isinstance(weight, SpikeTensor) or transposed:
        return NotImplemented
    del output_padding  # of transposed convolutions
    return convolve(spikes, weight, bias, _options(spikes, stride, padding, dilation, groups))


@handles(aten.convolution_backward.default)
def _convolution_backward(
    gradient: Tensor,
    spikes: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    mask: Any,
) -> Any:
    others = isinstance(weight, SpikeTensor) or isinstance(gradient, SpikeTensor)
    if not isinstance(spikes, SpikeTensor) or others or transposed:
        return NotImplemented
    del bias_sizes, output_padding
    options = _options(spikes, stride, padding, dilation, groups)
    return (
        spikes_gradient(spikes, weight, gradient, options) if mask[0] else None,
        kernel_gradient(spikes, tuple(weight.shape), gradient, options) if mask[1] else None,
        gradient.flatten(2).sum((0, 2)) if mask[2] else None,
    )


def _options(spikes: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> ConvOptions:
    axes = spikes.ndim - 2
    stride, padding, dilation = (
        tuple(each) * (axes if len(each) == 1 else 1) for each in (stride, padding, dilation)
    )
    return ConvOptions(stride, padding, dilation, groups)


def _pools(operator: Any) -> None:
    """Enter a max pooling: the largest of zeros and ones is one where any of them is."""

    def handler(spikes: SpikeTensor, *args: Any, **kwargs: Any) -> tuple[SpikeTensor, Tensor]:
        values, places = operator(dense_of(spikes), *args, **kwargs)
        return packed_again(spikes, values > 0), places

    handles(operator)(handler)


for _operator in (
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
    aten.adaptive_max_pool2d.default,
):
    _pools(_operator)
