"""Registered operators: what a compiled graph calls for spikes.

Their arguments are plain tensors: the packed bits, and the shape that they stand for.
"""

from typing import cast

import torch
from torch import Tensor

from spike_ops._bits import bytes_needed, pack_bits, unpack_bits
from spike_ops._cost import Method
from spike_ops._index import SpikeIndex
from spike_ops._mm import mm, mm_transposed


@torch.library.custom_op("spike_ops::pack", mutates_args=())
def pack(fired: Tensor) -> Tensor:
    """Return the bits of a tensor, one where it is not zero."""
    return pack_bits(fired)


@pack.register_fake
def _(fired: Tensor) -> Tensor:
    return fired.new_empty(bytes_needed(fired.numel()), dtype=torch.uint8)


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
