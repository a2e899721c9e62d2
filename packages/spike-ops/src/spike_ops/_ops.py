"""Registered operators: what a compiled graph calls for spikes.

Their arguments are plain tensors: the packed bits, and the shape that they stand for.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from spike_ops._bits import bytes_needed, fired_in, in_numpy, pack_bits, unpack_bits
from spike_ops._conv import conv, conv_shape, conv_weight
from spike_ops._cost import Method
from spike_ops._index import SpikeIndex
from spike_ops._mm import bmm, mm, mm_transposed


@torch.library.custom_op("spike_ops::pack", mutates_args=())
def pack(fired: Tensor) -> Tensor:
    """Return the bits of a tensor, one where it is not zero."""
    return pack_bits(fired)


@pack.register_fake
def _(fired: Tensor) -> Tensor:
    return fired.new_empty(bytes_needed(fired.numel()), dtype=torch.uint8)


@torch.library.custom_op("spike_ops::pack_checked", mutates_args=())
def pack_checked(dense: Tensor) -> Tensor:
    """Return the bits of zeros and ones; anything else is refused, but where it had to wait."""
    return pack_bits(fired_in(dense) if dense.device.type == "cpu" else dense)


@pack_checked.register_fake
def _(dense: Tensor) -> Tensor:
    return dense.new_empty(bytes_needed(dense.numel()), dtype=torch.uint8)


@torch.library.custom_op("spike_ops::unpack", mutates_args=())
def unpack(packed: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    """Return the dense tensor that the bits stand for."""
    return unpack_bits(packed, shape, dtype)


@unpack.register_fake
def _(packed: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    return packed.new_empty(shape, dtype=dtype)


@torch.library.custom_op("spike_ops::mm", mutates_args=())
def spikes_mm(packed: Tensor, rows: int, weight: Tensor, method: str) -> Tensor:
    """Return S @ W."""
    index = SpikeIndex(packed, rows * weight.shape[0])
    return mm(index, rows, weight, cast(Method, method))


@spikes_mm.register_fake
def _(packed: Tensor, rows: int, weight: Tensor, method: str) -> Tensor:
    del packed, method
    return weight.new_empty(rows, weight.shape[1])


@torch.library.custom_op("spike_ops::mm_transposed", mutates_args=())
def spikes_mm_transposed(packed: Tensor, columns: int, gradient: Tensor, method: str) -> Tensor:
    """Return Sᵀ @ G."""
    index = SpikeIndex(packed, gradient.shape[0] * columns)
    return mm_transposed(index, columns, gradient, cast(Method, method))


@spikes_mm_transposed.register_fake
def _(packed: Tensor, columns: int, gradient: Tensor, method: str) -> Tensor:
    del packed, method
    return gradient.new_empty(columns, gradient.shape[1])


@torch.library.custom_op("spike_ops::bmm", mutates_args=())
def spikes_bmm(packed: Tensor, rows: int, weight: Tensor, method: str) -> Tensor:
    """Return S_i @ W_i."""
    index = SpikeIndex(packed, weight.shape[0] * rows * weight.shape[1])
    return bmm(index, rows, weight, cast(Method, method))


@spikes_bmm.register_fake
def _(packed: Tensor, rows: int, weight: Tensor, method: str) -> Tensor:
    del packed, method
    return weight.new_empty(weight.shape[0], rows, weight.shape[2])


@torch.library.custom_op("spike_ops::conv", mutates_args=())
def spikes_conv(
    packed: Tensor,
    spikes: list[int],
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    method: str,
) -> Tensor:
    """Return the convolution of spikes of a shape."""
    shape = conv_shape(spikes, weight.shape, stride, padding, dilation, groups)
    index = SpikeIndex(packed, shape.size)
    return conv(index, shape, weight, bias, cast(Method, method)).contiguous()


@spikes_conv.register_fake
def _(
    packed: Tensor,
    spikes: list[int],
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    method: str,
) -> Tensor:
    del packed, bias, method
    shape = conv_shape(spikes, weight.shape, stride, padding, dilation, groups)
    return weight.new_empty(shape.batch, shape.outputs, *shape.out_sides)


@torch.library.custom_op("spike_ops::conv_weight", mutates_args=())
def spikes_conv_weight(
    packed: Tensor,
    spikes: list[int],
    weight: list[int],
    gradient: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    method: str,
) -> Tensor:
    """Return the gradient of the kernel."""
    shape = conv_shape(spikes, weight, stride, padding, dilation, groups)
    index = SpikeIndex(packed, shape.size)
    return conv_weight(index, shape, gradient, cast(Method, method)).contiguous()


@spikes_conv_weight.register_fake
def _(
    packed: Tensor,
    spikes: list[int],
    weight: list[int],
    gradient: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    method: str,
) -> Tensor:
    del packed, spikes, stride, padding, dilation, groups, method
    return gradient.new_empty(weight)


def packed_bits(fired: Tensor) -> Tensor:
    """Return the bits of booleans: at once where they are at hand, else by the operator."""
    return pack_bits(fired) if in_numpy(fired) else pack(fired)


def checked_bits(fired: Tensor) -> Tensor:
    """Return the bits of booleans, or in a compiled graph of values that it checks when it runs."""
    return packed_bits(fired) if fired.dtype == torch.bool else pack_checked(fired)


def unpacked(packed: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return the dense tensor of bits: at once where they are at hand, else by the operator."""
    if in_numpy(packed):
        return unpack_bits(packed, shape, dtype)
    return unpack(packed, list(shape), dtype)
