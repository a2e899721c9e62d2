"""A linear layer and the LIF neurons behind it on a GPU, as one function of autograd."""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spike_ops._autograd import apply
from spike_ops._product import product
from spike_ops._spike_tensor import SpikeTensor
from spike_ops._triton._lif import check_kept
from spike_ops._triton._lif_ops import lif_backward, numbers_of
from spike_ops._triton._linear_lif_ops import linear_lif_forward
from spike_ops.neuron._lif_rule import LifRule


def linear_lif(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor,
    rule: LifRule,
    *,
    kept: str,
    spike_out: bool,
) -> tuple[Tensor, Tensor]:
    """Return the spikes [T, ..., out] of currents `inputs` Wᵀ + b, and v [..., out] after them.

    Args:
        inputs: [T, ..., in], a `SpikeTensor` or any numbers.
        weight: [out, in].
        bias: [out], or None.
        v: State before the first step.
        rule: Its reset is not delayed.
        kept: What the backward pass keeps of each step: "membrane", "bits" or "bytes".
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: The backward pass needs more than is kept, or there is no CUDA device.
        TypeError: There is no kernel for the surrogate or for the type.
    """
    check_kept(rule, kept)
    given = (inputs, weight, v) if bias is None else (inputs, weight, v, bias)
    wanted = torch.is_grad_enabled() and any(each.requires_grad for each in given)
    call = (inputs, weight, bias, v, rule, kept if wanted else "nothing", spike_out)
    spikes, after = apply(_LinearLif, *call)
    return spikes, after


class _LinearLif(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor,
        rule: LifRule, kept: str, spike_out: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.given, ctx.kept = numbers_of(rule), kept
        steps, shape = inputs.shape[0], (*inputs.shape[:-1], weight.shape[0])
        # h rounded to a shorter type may lie on the other side of the threshold
        exact = kept == "nothing" or (kept == "membrane" and weight.dtype == torch.float32)
        x, strides = _lines(inputs)
        spikes, bits, saved, after = linear_lif_forward(
            x, strides, weight.t(), bias, v.reshape(math.prod(shape[1:-1]), shape[-1]), steps,
            *ctx.given, kept,
            not spike_out, spike_out or not exact,
        )  # fmt: skip
        ctx.save_for_backward(inputs, weight, saved, bits[:0] if exact else bits)
        dense = SpikeTensor(bits, shape, weight.dtype) if spike_out else spikes.reshape(shape)
        return dense, after.reshape(v.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, saved, bits = ctx.saved_tensors
        gs = gradients[0].reshape(inputs.shape[0], gradients[1].numel())
        by_current, gv = lif_backward(
            gs, gradients[1].reshape(-1), bits, saved, *ctx.given, ctx.kept
        )
        by_current = by_current.reshape(math.prod(inputs.shape[:-1]), weight.shape[0])
        to_inputs, to_weight, to_bias, to_v = ctx.needs_input_grad[:4]
        return (
            (by_current @ weight).reshape(inputs.shape) if to_inputs else None,
            _by_weight(inputs, by_current) if to_weight else None,
            by_current.sum(0) if to_bias else None,
            gv.reshape(gradients[1].shape) if to_v else None,
            None, None, None,
        )  # fmt: skip


def _lines(inputs: Tensor) -> tuple[Tensor, list[int]]:
    """Return the input as the operator takes it: dense lines, or bits and their strides."""
    lines, depth = math.prod(inputs.shape[:-1]), inputs.shape[-1]
    if not isinstance(inputs, SpikeTensor):
        return inputs.reshape(lines, depth), []
    return inputs.packed, [1, lines] if inputs._transposed else [depth, 1]


def _by_weight(inputs: Tensor, by_current: Tensor) -> Tensor:
    """Return the gradient of the weight [out, in]."""
    lines = inputs.reshape(math.prod(inputs.shape[:-1]), inputs.shape[-1])
    if isinstance(lines, SpikeTensor):
        return product(cast(SpikeTensor, lines.t()), by_current).t()
    return by_current.t() @ lines
