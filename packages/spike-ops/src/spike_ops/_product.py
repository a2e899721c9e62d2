"""The product of spikes with a matrix, for autograd and for compiled graphs."""

from typing import Any

import torch
from torch import Tensor

from spike_ops._autograd import apply, without_autocast
from spike_ops._bits import in_numpy
from spike_ops._cost import Method
from spike_ops._dense import dense_by_spikes
from spike_ops._mm import mm, mm_transposed
from spike_ops._ops import spikes_mm, spikes_mm_transposed
from spike_ops._spike_tensor import SpikeTensor


def product(spikes: SpikeTensor, weight: Tensor, method: Method = "auto") -> Tensor:
    """Return S @ W for spikes [M, K], turned or not, and a weight [K, N]; outside autograd."""
    check_product(spikes, weight)
    packed, rows = spikes._packed, spikes.shape[0]
    if in_numpy(packed):
        way = mm_transposed if spikes._transposed else mm
        return way(spikes._index, rows, weight, method)
    operator = spikes_mm_transposed if spikes._transposed else spikes_mm
    return operator(packed, rows, weight, method)


def check_product(spikes: Tensor, weight: Tensor) -> None:
    """Raise unless spikes [M, K] and a weight [K, N] fit together."""
    if spikes.ndim != 2 or weight.ndim != 2 or spikes.shape[1] != weight.shape[0]:
        shapes = f"{tuple(spikes.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"spikes [M, K] need a weight [K, N], got {shapes}")
    check_types(spikes, weight)


def check_types(spikes: Tensor, weight: Tensor) -> None:
    """Raise unless spikes and a weight are of one type."""
    if weight.dtype != spikes.dtype:
        kinds = f"{spikes.dtype} and {weight.dtype}"
        raise TypeError(f"spikes and weight must have one dtype, got {kinds}")


class Product(torch.autograd.Function):
    """S @ W by a method; the weight's gradient is Sᵀ @ G by the same method."""

    @staticmethod
    def forward(ctx: Any, spikes: SpikeTensor, weight: Tensor, method: Method) -> Tensor:
        ctx.save_for_backward(spikes, weight)
        ctx.method = method
        return product(spikes, weight, method)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        spikes, weight = ctx.saved_tensors
        to_spikes = dense_by_spikes(gradient, weight) if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = apply(Product, spikes.t(), gradient, ctx.method)
        return to_spikes, to_weight, None


def spike_product(spikes: SpikeTensor, weight: Tensor, method: Method) -> Tensor:
    """Return S @ W; through autograd only where somebody wants a gradient."""
    if torch.is_grad_enabled() and (spikes.requires_grad or weight.requires_grad):
        result: Tensor = apply(Product, spikes, weight, method)
        return result
    return product(spikes, weight, method)
