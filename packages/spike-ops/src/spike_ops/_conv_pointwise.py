"""Convolutions whose kernel has one element, as products of the spikes at each place."""

from torch import Tensor

from spike_ops import _native
from spike_ops._conv_shape import ConvShape
from spike_ops._cost import Method
from spike_ops._index import SpikeIndex
from spike_ops._mm import mm


def takes(shape: ConvShape, packed: Tensor, beside: Tensor) -> bool:
    """Say whether a convolution is a product that the kernels compute."""
    return shape.pointwise and _native.knows(beside.dtype) and _native.takes(beside, packed)


def pointwise(index: SpikeIndex, shape: ConvShape, weight: Tensor, method: Method) -> Tensor:
    """Return the convolution [B, O, ...], channels last."""
    spikes, rows = index.flipped(shape.channels, shape.plane), shape.batch * shape.plane
    table = weight.view(shape.outputs, shape.channels).t().contiguous()
    summed = mm(spikes, rows, table, method)
    return summed.view(shape.batch, *shape.sides, shape.outputs).movedim(-1, 1)
