"""What operations of torch do with spikes: one row per operator.

Whatever is not here sees the dense zeros and ones. A handler that returns NotImplemented leaves
its case to that.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from spike_ops._bits import in_numpy
from spike_ops._mm import mm, mm_transposed
from spike_ops._ops import pack, spikes_mm, spikes_mm_transposed
from spike_ops._spike_tensor import FLOATS, SpikeTensor, dense_of, like

aten = torch.ops.aten


def handles(*operators: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function as what operators do with spikes."""

    def enter(handler: Callable[..., Any]) -> Callable[..., Any]:
        SpikeTensor.handlers.update(dict.fromkeys(operators, handler))
        return handler

    return enter


@handles(aten.detach.default, aten.alias.default)
def _same(spikes: SpikeTensor) -> SpikeTensor:
    return like(spikes, spikes._packed, spikes.shape, transposed=spikes._transposed)


@handles(aten.clone.default)
def _clone(spikes: SpikeTensor, memory_format: Any = None) -> SpikeTensor:
    del memory_format
    return like(spikes, spikes._packed.clone(), spikes.shape, transposed=spikes._transposed)


@handles(aten._to_copy.default)
def _to_copy(spikes: SpikeTensor, **options: Any) -> Any:
    dtype = options.get("dtype") or spikes.dtype
    if dtype not in FLOATS or options.get("layout") not in {None, torch.strided}:
        return NotImplemented
    packed = spikes._packed.to(options.get("device") or spikes.device, copy=True)
    return like(spikes, packed, spikes.shape, transposed=spikes._transposed, dtype=dtype)


def _reshaped(spikes: SpikeTensor, shape: Sequence[int]) -> Any:
    if spikes._transposed:
        return NotImplemented
    return like(spikes, spikes._packed, shape)


@handles(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(spikes: SpikeTensor, shape: Sequence[int]) -> Any:
    return _reshaped(spikes, torch._prims_common.infer_size(shape, spikes.numel()))


@handles(aten.unsqueeze.default)
def _unsqueeze(spikes: SpikeTensor, dim: int) -> Any:
    shape = list(spikes.shape)
    shape.insert(dim % (len(shape) + 1), 1)
    return _reshaped(spikes, shape)


@handles(aten.squeeze.dim)
def _squeeze(spikes: SpikeTensor, dim: int) -> Any:
    shape = list(spikes.shape)
    if shape and shape[dim] == 1:
        del shape[dim]
    return _reshaped(spikes, shape)


@handles(aten.t.default)
def _t(spikes: SpikeTensor) -> Any:
    if spikes.ndim != 2:
        return NotImplemented
    turned = not spikes._transposed
    return like(spikes, spikes._packed, spikes.shape[::-1], transposed=turned)


@handles(aten.transpose.int)
def _transpose(spikes: SpikeTensor, first: int, second: int) -> Any:
    return _t(spikes) if {first % spikes.ndim, second % spikes.ndim} == {0, 1} else NotImplemented


@handles(aten.select.int)
def _select(spikes: SpikeTensor, dim: int, index: int) -> Any:
    return _rows(spikes, dim, index % spikes.shape[dim], 1, tuple(spikes.shape[1:]))


@handles(aten.slice.Tensor)
def _slice(
    spikes: SpikeTensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    first, last, _ = slice(start, end).indices(spikes.shape[dim])
    count = max(last - first, 0)
    shape = (count, *spikes.shape[1:])
    return NotImplemented if step != 1 else _rows(spikes, dim, first, count, shape)


def _rows(spikes: SpikeTensor, dim: int, first: int, count: int, shape: tuple[int, ...]) -> Any:
    """Return entries along the first dimension as spikes, if they begin at a byte."""
    size = math.prod(spikes.shape[1:])
    if dim != 0 or spikes._transposed or (first * size) % 8 or (count * size) % 8:
        return NotImplemented
    part = spikes._packed[first * size // 8 : (first + count) * size // 8]
    return like(spikes, part, shape)


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
    return SpikeTensor(pack(joined), joined.shape, spikes[0].dtype)


@handles(aten.mm.default)
def _mm(left: Tensor, right: Tensor) -> Any:
    if isinstance(left, SpikeTensor) and isinstance(right, SpikeTensor):
        return _mm(left, dense_of(right))
    if isinstance(left, SpikeTensor):
        return _product(left, right)
    assert isinstance(right, SpikeTensor)
    # G S = (Sᵀ Gᵀ)ᵀ: the weight's gradient as autograd asks for it
    return _product(_t(right), left.t()).t()


@handles(aten.addmm.default)
def _addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if isinstance(bias, SpikeTensor) or beta != 1 or alpha != 1:
        return NotImplemented
    product = _mm(left, right)
    return product.add_(bias) if product.dtype == bias.dtype else NotImplemented


def _product(spikes: SpikeTensor, weight: Tensor) -> Tensor:
    _check_product(spikes, weight)
    packed, index = spikes._packed, spikes._index
    if not in_numpy(packed):
        if spikes._transposed:
            return spikes_mm_transposed(packed, spikes.shape[0], weight, "auto")
        return spikes_mm(packed, spikes.shape[0], weight, "auto")
    if spikes._transposed:
        return mm_transposed(index, spikes.shape[0], weight)
    return mm(index, spikes.shape[0], weight)


def _check_product(spikes: SpikeTensor, weight: Tensor) -> None:
    if weight.ndim != 2 or spikes.shape[1] != weight.shape[0]:
        shapes = f"{tuple(spikes.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"spikes [M, K] need a weight [K, N], got {shapes}")
    if weight.dtype != spikes.dtype:
        kinds = f"{spikes.dtype} and {weight.dtype}"
        raise TypeError(f"spikes and weight must have one dtype, got {kinds}")
