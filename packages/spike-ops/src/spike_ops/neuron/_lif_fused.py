"""LIF over all steps at once as one function of autograd, keeping as little as is exact."""

from typing import Any, Literal

import torch
from torch import Tensor

from spike_ops._bits import pack_bits, unpack_bits
from spike_ops._spike_tensor import SpikeTensor
from spike_ops._window import Window
from spike_ops.neuron._lif_kernel import kernel_backward, kernel_forward
from spike_ops.neuron._lif_loops import Kept, eager_backward, eager_forward, keep
from spike_ops.neuron._lif_rule import LifRule
from spike_ops.neuron._once import once
from spike_ops.surrogate import Rectangular

Saving = Literal["exact", "8bit"]


def kept_for(rule: LifRule, saving: Saving) -> Kept:
    """Return what the backward pass of a rule keeps."""
    if not rule.needs_membrane and isinstance(rule.surrogate, Rectangular):
        return "bits"
    return "bytes" if saving == "8bit" and not rule.needs_membrane else "membrane"


def lif(
    x: Tensor, v: Tensor, rule: LifRule, *, saving: Saving, compiled: bool, spike_out: bool
) -> tuple[Tensor, Tensor]:
    """Return the spikes [T, ...] of currents x [T, ...] from v [...], and v after them."""
    kept = kept_for(rule, saving)
    spikes, after = _Lif.apply(x, v, rule, kept, compiled, spike_out)  # type: ignore[no-untyped-call,unused-ignore]
    if not spikes.requires_grad and isinstance(spikes, SpikeTensor):
        spikes._window = None  # no backward pass will come
    return spikes, after


def _window(rule: LifRule, kept: Kept, saved: Tensor) -> Window | None:
    """Return where the backward pass uses the gradient by spikes: elsewhere it is times zero."""
    if rule.surrogate.support is None or torch.compiler.is_compiling():
        return None

    def bits(saved: Tensor) -> Tensor:
        if kept == "bits":
            return saved
        return pack_bits(saved if kept == "bytes" else keep(rule, saved, "bits"))

    return Window(saved, bits)


class _Lif(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, rule: LifRule, kept: Kept, compiled: bool, spike_out: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.rule, ctx.kept, ctx.compiled, ctx.shape = rule, kept, compiled, x.shape
        flat, state = x.reshape(x.shape[0], -1), v.reshape(-1)
        forward = kernel_forward if compiled else eager_forward
        run = forward(rule, flat, state, kept=kept, dense=not spike_out)
        packed = None if run.fired is None else pack_bits(run.fired)
        saved = pack_bits(run.saved) if kept == "bits" else run.saved
        ctx.save_for_backward(saved, *([] if kept == "membrane" else [packed]))
        after = run.state.reshape(v.shape)
        if spike_out:
            assert packed is not None
            spikes = SpikeTensor(packed, x.shape, x.dtype)
            spikes._window = _window(rule, kept, saved)
            return spikes, after
        assert run.dense is not None
        return run.dense.reshape(x.shape), after

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, *packed = ctx.saved_tensors
        gs, gv = (each.to_dense() if isinstance(each, SpikeTensor) else each for each in gradients)
        gs, gv = gs.reshape(ctx.shape[0], -1), gv.reshape(-1)
        fired = unpack_bits(packed[0], gs.shape) if packed else None
        saved = unpack_bits(saved, gs.shape) if ctx.kept == "bits" else saved
        backward = kernel_backward if ctx.compiled else eager_backward
        gx, gv = backward(ctx.rule, gs, gv, fired, saved, ctx.kept)
        return gx.reshape(ctx.shape), gv.reshape(ctx.shape[1:]), None, None, None, None
