"""LIF over all steps at once, forward and backward, keeping as little as is exact."""

from typing import Any, Literal

import torch
from torch import Tensor

from spike_ops._bits import pack_bits, unpack_bits
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.neuron._compiled import loops
from spike_ops.neuron._lif_loops import CHUNK
from spike_ops.neuron._lif_rule import LifRule
from spike_ops.surrogate import Rectangular

Saving = Literal["exact", "8bit"]


def kept_for(rule: LifRule, saving: Saving) -> str:
    """Return what the backward pass of a rule keeps: "bits", "bytes" or "membrane"."""
    if not rule.needs_membrane and isinstance(rule.surrogate, Rectangular):
        return "bits"
    return "bytes" if saving == "8bit" and not rule.needs_membrane else "membrane"


def lif(
    x: Tensor, v: Tensor, rule: LifRule, *, saving: Saving, compiled: bool, spike_out: bool
) -> tuple[Tensor, Tensor]:
    """Return the spikes [T, ...] of currents x [T, ...] from v [...], and v after them."""
    kept = kept_for(rule, saving)
    spikes, after = _Lif.apply(x, v, rule, kept, compiled, spike_out)
    return spikes, after


def chunks(steps: int) -> list[slice]:
    """Return the spans of time that the loops run through, in order."""
    return [slice(start, min(start + CHUNK, steps)) for start in range(0, steps, CHUNK)]


class _Lif(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, rule: LifRule, kept: str, compiled: bool, spike_out: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.rule, ctx.kept, ctx.compiled, ctx.shape = rule, kept, compiled, x.shape
        flat, state = x.reshape(x.shape[0], -1), v.reshape(-1)
        forward = loops(rule, kept, compiled)[0]
        parts = []
        for span in chunks(x.shape[0]):
            fired, saved, state = forward(flat[span], state)
            parts.append((fired, saved))
        fired = torch.cat([part[0] for part in parts]) if len(parts) > 1 else parts[0][0]
        saved = torch.cat([part[1] for part in parts]) if len(parts) > 1 else parts[0][1]
        packed = pack_bits(fired)
        ctx.save_for_backward(packed, pack_bits(saved) if kept == "bits" else saved)
        if spike_out:
            return SpikeTensor(packed, x.shape, x.dtype), state.reshape(v.shape)
        return fired.reshape(x.shape).to(x.dtype), state.reshape(v.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rule, kept = ctx.rule, ctx.kept
        packed, saved = ctx.saved_tensors
        steps = ctx.shape[0]
        gs, gv = gradients[0].reshape(steps, -1), gradients[1].reshape(-1)
        fired = unpack_bits(packed, gs.shape)
        if kept == "bits":
            saved = unpack_bits(saved, gs.shape)
        scale = _scale(rule, kept, gs)
        backward = loops(rule, kept, ctx.compiled)[1]
        parts = []
        for span in reversed(chunks(steps)):
            gx, gv = backward(gs[span], gv, fired[span], saved[span], scale)
            parts.append(gx)
        gx = torch.cat(parts[::-1]) if len(parts) > 1 else parts[0]
        shape = ctx.shape
        return gx.reshape(shape), gv.reshape(shape[1:]), None, None, None, None


def _scale(rule: LifRule, kept: str, gs: Tensor) -> Tensor:
    """Return what turns the kept integers into the surrogate's derivative."""
    peak = rule.surrogate.derivative(torch.zeros((), dtype=gs.dtype))
    return (peak / 255 if kept == "bytes" else peak).to(gs.device)
