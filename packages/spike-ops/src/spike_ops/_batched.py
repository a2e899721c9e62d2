"""Products of many matrices of spikes, each with a matrix of its own."""

from typing import Any

import torch
from torch import Tensor

from spike_ops._autograd import apply, without_autocast
from spike_ops._bits import in_numpy
from spike_ops._cost import Method
from spike_ops._mm import bmm
from spike_ops._ops import spikes_bmm
from spike_ops._spike_tensor import SpikeTensor


def batched_product(spikes: SpikeTensor, weight: Tensor, method: Method = "auto") -> Tensor:
    """Return S_i @ W_i for spikes [..., M, K] and weights [..., K, N], leading sizes equal."""
    fits = spikes.ndim == weight.ndim and spikes.shape[:-2] == weight.shape[:-2]
    if not fits or spikes.shape[-1] != weight.shape[-2]:
        shapes = f"{tuple(spikes.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"spikes [..., M, K] need a weight [..., K, N], got {shapes}")
    if spikes.dtype != weight.dtype:
        kinds = f"{spikes.dtype} and {weight.dtype}"
        raise TypeError(f"spikes and weight must have one dtype, got {kinds}")
    *leading, rows, columns = spikes.shape
    batch = spikes.numel() // max(rows * columns, 1)
    flat = spikes.reshape(batch, rows, columns)
    result: Tensor = apply(BatchedProduct, flat, weight.reshape(batch, *weight.shape[-2:]), method)
    return result.reshape(*leading, rows, weight.shape[-1])


class BatchedProduct(torch.autograd.Function):
    """S_i @ W_i by a method; the weights' gradient is S_iᵀ @ G_i by the same method."""

    @staticmethod
    def forward(ctx: Any, spikes: SpikeTensor, weight: Tensor, method: Method) -> Tensor:
        ctx.save_for_backward(spikes, weight)
        ctx.method = method
        if in_numpy(spikes._packed):
            return bmm(spikes._index, spikes.shape[1], weight, method)
        return spikes_bmm(spikes._packed, spikes.shape[1], weight, method)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        spikes, weight = ctx.saved_tensors
        to_spikes = gradient @ weight.mT if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = apply(BatchedProduct, spikes.transpose(1, 2), gradient, ctx.method)
        return to_spikes, to_weight, None
