"""What operations that only rearrange do with spikes: the result is spikes again.

What torch refuses is left to it, and to the dense values: the error is its own.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from spike_ops._handlers import handles, packed_again
from spike_ops._ops import packed_bits
from spike_ops._spike_tensor import SpikeTensor, dense_of, like

aten = torch.ops.aten
# the two dimensions of a matrix, counted from either end
SWAPS = ({0, 1}, {-2, 1}, {0, -1}, {-2, -1})


def _has(spikes: SpikeTensor, dim: int) -> bool:
    """Say whether spikes have this dimension, counted from either end."""
    rank = spikes.ndim
    return -rank <= dim < rank


def _reshaped(spikes: SpikeTensor, shape: Sequence[int]) -> SpikeTensor:
    if spikes._transposed:
        return packed_again(spikes, dense_of(spikes, torch.bool).reshape(tuple(shape)))
    return like(spikes, spikes._packed, shape)


@handles(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(spikes: SpikeTensor, shape: Sequence[int]) -> Any:
    return _reshaped(spikes, torch._prims_common.infer_size(list(shape), spikes.numel()))


@handles(aten.unsqueeze.default)
def _unsqueeze(spikes: SpikeTensor, dim: int) -> Any:
    shape = list(spikes.shape)
    if not -len(shape) - 1 <= dim <= len(shape):
        return NotImplemented
    shape.insert(dim % (len(shape) + 1), 1)
    return _reshaped(spikes, shape)


@handles(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)
def _squeeze(spikes: SpikeTensor, dim: int | Sequence[int] | None = None) -> Any:
    asked = range(spikes.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {axis % max(spikes.ndim, 1) for axis in asked}
    if len(gone) < len(asked) or not all(_has(spikes, axis) for axis in asked):
        return NotImplemented
    shape = [n for axis, n in enumerate(spikes.shape) if n != 1 or axis not in gone]
    return _reshaped(spikes, shape)


@handles(aten.t.default)
def _t(spikes: SpikeTensor) -> Any:
    if spikes.ndim != 2:
        return NotImplemented
    turned = not spikes._transposed
    return like(spikes, spikes._packed, spikes.shape[::-1], transposed=turned)


@handles(aten.transpose.int)
def _transpose(spikes: SpikeTensor, first: int, second: int) -> SpikeTensor:
    if spikes.ndim == 2 and {first, second} in SWAPS:
        return _t(spikes)
    return packed_again(spikes, dense_of(spikes, torch.bool).transpose(first, second))


@handles(aten.permute.default)
def _permute(spikes: SpikeTensor, dims: Sequence[int]) -> SpikeTensor:
    return packed_again(spikes, dense_of(spikes, torch.bool).permute(tuple(dims)))


def _rearranges(operator: Any) -> None:
    """Enter an operator that puts spikes elsewhere: done to booleans, its result packed again."""

    def handler(spikes: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(spikes, SpikeTensor):
            return NotImplemented
        return packed_again(spikes, operator(dense_of(spikes, torch.bool), *args, **kwargs))

    handles(operator)(handler)


for _operator in (
    aten.index_select.default,
    aten.index.Tensor,
    aten.flip.default,
    aten.roll.default,
):
    _rearranges(_operator)


@handles(aten.select.int)
def _select(spikes: SpikeTensor, dim: int, index: int) -> Any:
    size = spikes.shape[dim] if _has(spikes, dim) else 0
    if not -size <= index < size:
        return NotImplemented
    dim %= spikes.ndim
    part = _part(spikes, dim, index % size, 1)
    shape = [size for axis, size in enumerate(part.shape) if axis != dim]
    return _reshaped(part, shape)


@handles(aten.slice.Tensor)
def _slice(
    spikes: SpikeTensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    if not _has(spikes, dim) or step < 1:
        return NotImplemented
    dim %= spikes.ndim
    first, last, _ = slice(start, end).indices(spikes.shape[dim])
    return _part(spikes, dim, first, max(last - first, 0), step)


@handles(aten.split.Tensor)
def _split(spikes: SpikeTensor, size: int, dim: int = 0) -> Any:
    if not _has(spikes, dim) or size < 1:
        return NotImplemented
    return [_slice(spikes, dim, i, i + size) for i in range(0, max(spikes.shape[dim], 1), size)]


@handles(aten.split_with_sizes.default)
def _split_with_sizes(spikes: SpikeTensor, sizes: Sequence[int], dim: int = 0) -> Any:
    if not _has(spikes, dim) or min(sizes, default=0) < 0 or sum(sizes) != spikes.shape[dim]:
        return NotImplemented
    ends = list(accumulate(sizes))
    return [_slice(spikes, dim, end - n, end) for end, n in zip(ends, sizes, strict=True)]


@handles(aten.unbind.int)
def _unbind(spikes: SpikeTensor, dim: int = 0) -> Any:
    if not _has(spikes, dim):
        return NotImplemented
    return [_select(spikes, dim, i) for i in range(spikes.shape[dim])]


def _part(spikes: SpikeTensor, dim: int, first: int, count: int, step: int = 1) -> SpikeTensor:
    """Return entries along a dimension; they share the bits where they begin and end at a byte."""
    size = math.prod(spikes.shape[1:])
    if dim or step != 1 or spikes._transposed or (first * size) % 8 or (count * size) % 8:
        dense = dense_of(spikes, torch.bool)
        return packed_again(spikes, aten.slice.Tensor(dense, dim, first, first + count, step))
    part = spikes._packed[first * size // 8 : (first + count) * size // 8]
    return like(spikes, part, (count, *spikes.shape[1:]))


@handles(aten.cat.default)
def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    return _joined(tensors, lambda dense: torch.cat(dense, dim))


@handles(aten.stack.default)
def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    return _joined(tensors, lambda dense: torch.stack(dense, dim))


def _joined(tensors: Sequence[Tensor], join: Callable[[list[Tensor]], Tensor]) -> Any:
    spikes = [tensor for tensor in tensors if isinstance(tensor, SpikeTensor)]
    if len(spikes) < len(tensors):
        return NotImplemented
    joined = join([dense_of(each, torch.bool) for each in spikes])
    dtype = reduce(torch.promote_types, [each.dtype for each in spikes])
    return SpikeTensor(packed_bits(joined), joined.shape, dtype)
