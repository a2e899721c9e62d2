"""A neuron over all steps by its kernels, as one function of autograd."""

from typing import Any

import torch
from torch import Tensor

from spike_ops._ops import packed_bits
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.neuron._kernel import Kernels, in_memory, named
from spike_ops.neuron._once import once


def fused(
    kernels: Kernels,
    x: Tensor,
    states: tuple[Tensor, ...],
    constants: tuple[Tensor, ...],
    *,
    spike_out: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the spikes of currents x [T, ...] from states [...], and the states after them.

    Kept for the backward pass are the currents, the first states and the constants.
    """
    spikes, *after = _Fused.apply(kernels, spike_out, x, *states, *constants)  # type: ignore[no-untyped-call,unused-ignore]
    return spikes, tuple(after)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, spike_out: bool, x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.kernels = kernels
        ctx.save_for_backward(x, *rest)
        steps, shape = x.shape[0], x.shape[1:]
        data = _inputs(kernels, x, rest)
        after = [torch.empty_like(x[0].contiguous()) for _ in range(kernels.states)]
        data |= {f"v{k}_last": each for k, each in enumerate(after)}
        kind = torch.bool if spike_out else x.dtype
        data["s"] = x.new_empty(x.shape, dtype=kind)
        run = kernels.fired if spike_out else kernels.dense
        run(steps, shape.numel(), data)
        spikes = data["s"]
        if spike_out:
            spikes = SpikeTensor(packed_bits(spikes), x.shape, x.dtype)
        return spikes, *after

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kernels: Kernels = ctx.kernels
        x, *rest = ctx.saved_tensors
        gradients = tuple(in_memory(each, x.dtype) for each in gradients)
        data = _inputs(kernels, x, rest)
        size = x.shape[1:].numel()
        data |= {
            name: x.new_empty(size)
            for name in named("v", kernels.states)
            for name in (f"{name}_last",)
        }
        data["gs"] = gradients[0]
        for k, each in enumerate(gradients[1:]):
            data |= {
                f"g{k}_first": each,
                f"g{k}_last": x.new_empty(each.shape),
            }
        data |= {f"d{k}_sum": x.new_empty(x.shape[1:]) for k in range(kernels.constants)}
        data["gx"] = x.new_empty(x.shape)
        kernels.backward(x.shape[0], size, data)
        by_state = [data[f"g{k}_last"].to(rest[k].dtype) for k in range(kernels.states)]
        by_constant = [
            data[f"d{k}_sum"].sum_to_size(each.shape).to(each.dtype)
            for k, each in enumerate(rest[kernels.states :])
        ]
        return None, None, data["gx"], *by_state, *by_constant


def _inputs(kernels: Kernels, x: Tensor, rest: Any) -> dict[str, Tensor]:
    """Return the arrays that both kernels read, by name."""
    data = {"x": in_memory(x, x.dtype)}
    for k, state in enumerate(rest[: kernels.states]):
        data[f"v{k}_first"] = in_memory(state, x.dtype)
    for k, constant in enumerate(rest[kernels.states :]):
        data[f"p{k}"] = in_memory(constant.expand(x.shape[1:]), x.dtype)
    return data
