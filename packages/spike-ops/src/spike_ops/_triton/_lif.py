"""LIF over all steps at once on a GPU, as one function of autograd."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spike_ops._spike_tensor import SpikeTensor
from spike_ops._triton._lif_ops import lif_backward, lif_forward, numbers_of
from spike_ops.neuron._lif_rule import LifRule
from spike_ops.surrogate import Rectangular


def lif(
    x: Tensor, v: Tensor, rule: LifRule, *, kept: str, spike_out: bool
) -> tuple[Tensor, Tensor]:
    """Return the spikes [T, ...] of currents x [T, ...] from v [...], and v after them.

    Args:
        x: Currents.
        v: State before the first step.
        rule: Its reset is not delayed.
        kept: What the backward pass keeps of each step: "membrane", "bits" or "bytes".
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: The backward pass needs more than is kept, or there is no CUDA device.
        TypeError: There is no kernel for the surrogate or for the type.
    """
    check_kept(rule, kept)
    wanted = torch.is_grad_enabled() and (x.requires_grad or v.requires_grad)
    spikes, after = _Lif.apply(x, v, rule, kept if wanted else "nothing", spike_out)  # type: ignore[no-untyped-call,unused-ignore]
    return spikes, after


def check_kept(rule: LifRule, kept: str) -> None:
    """Raise unless what is kept is enough for the backward pass of a rule."""
    if kept not in {"membrane", "bits", "bytes"}:
        raise ValueError(f"kept must be membrane, bits or bytes, got {kept!r}")
    if rule.needs_membrane and kept != "membrane":
        raise ValueError(f"kept must be membrane for a hard reset with gradient, got {kept!r}")
    if kept == "bits" and not isinstance(rule.surrogate, Rectangular):
        raise ValueError(f"kept='bits' needs a rectangular surrogate, got {rule.surrogate}")
    if kept == "bytes" and rule.surrogate.signed:
        raise ValueError(f"kept='bytes' needs a derivative of one sign, got {rule.surrogate}")


class _Lif(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, rule: LifRule, kept: str, spike_out: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.given, ctx.kept, ctx.shape = numbers_of(rule), kept, x.shape
        # h rounded to a shorter type may lie on the other side of the threshold
        exact = kept == "nothing" or (kept == "membrane" and x.dtype == torch.float32)
        flat = x.reshape(x.shape[0], v.numel()), v.reshape(-1)
        packed = spike_out or not exact
        run = lif_forward(*flat, *ctx.given, kept, not spike_out, packed)
        spikes, bits, saved, after = run
        ctx.save_for_backward(saved, bits[:0] if exact else bits)
        dense = SpikeTensor(bits, x.shape, x.dtype) if spike_out else spikes.reshape(x.shape)
        return dense, after.reshape(v.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, bits = ctx.saved_tensors
        gv = gradients[1].reshape(-1)
        gs = gradients[0].reshape(ctx.shape[0], gv.numel())
        gx, gv = lif_backward(gs, gv, bits, saved, *ctx.given, ctx.kept)
        return gx.reshape(ctx.shape), gv.reshape(ctx.shape[1:]), None, None, None
