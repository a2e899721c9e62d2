"""The product of a neuron's spikes whose gradient is computed only where the neuron uses it."""

from math import nan
from typing import Any, cast
from weakref import ref

import torch
from torch import Tensor

from spike_ops import _native
from spike_ops._autograd import apply, without_autocast
from spike_ops._bits import count_bits
from spike_ops._cost import Method, ProductPlan, plan_masked
from spike_ops._dense import dense_by_spikes
from spike_ops._native_masked import masked_product
from spike_ops._product import Product, check_product, product
from spike_ops._spike_tensor import SpikeTensor, like
from spike_ops._window import only_the_neuron_sees

# a leaf of every product here, for `only_the_neuron_sees`; it gets no gradient
PROBE = torch.zeros((), requires_grad=True)


def knows_window(spikes: SpikeTensor) -> bool:
    """Say whether a neuron has told where it uses the gradient by these spikes."""
    told = spikes._window is not None and not torch.compiler.is_compiling()
    return told and spikes.grad_fn is not None


def windowed_product(spikes: SpikeTensor, weight: Tensor, method: Method) -> Tensor:
    """Return S @ W of spikes [..., K] with a window."""
    check_product(matrix(spikes), weight)
    assert spikes._window is not None
    result: Tensor = apply(Windowed, spikes, weight, method, spikes._window.kept, PROBE)
    return result


def matrix(spikes: SpikeTensor) -> SpikeTensor:
    """Return spikes [..., K] as [M, K], outside autograd."""
    columns = spikes.shape[-1]
    return like(spikes, spikes._packed, (spikes.numel() // max(columns, 1), columns))


def by_spikes(gradient: Tensor, weight: Tensor, window: Tensor) -> Tensor:
    """Return G Wᵀ [M, K] where the bits of a window are set; elsewhere too, if that is cheaper."""
    if plan_by_spikes(gradient, weight, window).method == "event":
        return masked_product(window, gradient.contiguous(), weight.contiguous())
    return dense_by_spikes(gradient, weight)


def plan_by_spikes(gradient: Tensor, weight: Tensor, window: Tensor) -> ProductPlan:
    """Return which way the gradient by spikes takes."""
    (rows, width), columns = gradient.shape, weight.shape[0]
    known = _native.knows(weight.dtype) and gradient.dtype == weight.dtype
    if not known or not _native.takes(window, gradient, weight):
        return ProductPlan("dense", nan, nan, nan, "there is no kernel: see compile_kernels")
    count, turned = count_bits(window), not weight.is_contiguous()
    return plan_masked(rows, columns, width, count, weight.dtype, turned=turned)


class Windowed(torch.autograd.Function):
    """S @ W as of `Product`; the spikes' gradient is zero where their neuron does not use it."""

    @staticmethod
    def forward(
        ctx: Any, spikes: SpikeTensor, weight: Tensor, method: Method, kept: Tensor, probe: Tensor
    ) -> Tensor:
        del probe
        ctx.save_for_backward(spikes, weight, kept)
        assert spikes._window is not None
        ctx.method, ctx.bits, ctx.spikes = method, spikes._window.bits, ref(spikes)
        summed = product(matrix(spikes), weight, method)
        # of a view autograd would not let a bias be added in place
        whole: Tensor = torch.ops.aten._unsafe_view(summed, (*spikes.shape[:-1], weight.shape[1]))
        return whole

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        spikes, weight, kept = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, weight.shape[1])
        to_spikes = to_weight = None
        if ctx.needs_input_grad[0]:
            probe = ctx.next_functions[-1][0]
            if not torch.is_grad_enabled() and only_the_neuron_sees(ctx.spikes(), probe):
                to_spikes = by_spikes(gradient, weight, ctx.bits(kept))
            else:
                to_spikes = dense_by_spikes(gradient, weight)
            to_spikes = to_spikes.reshape(spikes.shape)
        if ctx.needs_input_grad[1]:
            turned = cast(SpikeTensor, spikes.reshape(gradient.shape[0], -1)).t()
            to_weight = apply(Product, turned, gradient, ctx.method)
        return to_spikes, to_weight, None, None, None
