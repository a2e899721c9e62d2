"""A few steps of a LIF layer forward and backward, written to be compiled or run as they are.

The derivative of the loss by h and v, backwards in time, with σ' the surrogate's derivative at
h - θ and gv the derivative by v after the step:

    gh = gs σ' + gv                     no reset, or soft and detached
    gh = (gs - θ gv) σ' + gv            soft
    gh = gs σ' + gv (1 - s)             hard and detached
    gh = (gs + (v_r - h) gv) σ' + gv (1 - s)    hard
    gx = g gh,  gv <- β gh
"""

from collections.abc import Callable

import torch
from torch import Tensor

from spike_ops.neuron._lif_rule import LifRule

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
# steps unrolled at a time: more make compilation slow and the code no faster
CHUNK = 16


def forward_loop(rule: LifRule, kept: str) -> Forward:
    """Return the function (x [T, n], v [n]) -> (s as booleans, what is kept, v)."""

    def run(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fired, saved = [], []
        for current in x.unbind(0):
            h = rule.charge(current, v)
            s = rule.fire(h)
            fired.append(s)
            saved.append(_kept(rule, h, kept))
            v = rule.after(h, s.to(h.dtype))
        return torch.stack(fired), torch.stack(saved), v

    return run


def _kept(rule: LifRule, h: Tensor, kept: str) -> Tensor:
    u = h - rule.threshold
    if kept == "bits":
        support = rule.surrogate.support
        assert support is not None
        return u.abs() < support
    if kept == "bytes":
        peak = float(rule.surrogate.derivative(torch.zeros((), dtype=torch.float64)))
        return (rule.surrogate.derivative(u) * (255 / peak)).round().clamp(0, 255).to(torch.uint8)
    return h if kept == "membrane" else u.new_empty(0)


def backward_loop(rule: LifRule, kept: str) -> Backward:
    """Return the function (gs [T, n], gv [n], s, kept, scale) -> (gx [T, n], gv [n])."""

    def run(
        gs: Tensor, gv: Tensor, fired: Tensor, saved: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        gradients = []
        for t in reversed(range(gs.shape[0])):
            h = saved[t] if kept == "membrane" else None
            slope = saved[t].to(gs.dtype) * scale if h is None else _slope(rule, h)
            gh = _by_membrane(rule, gs[t], gv, slope, fired[t], h)
            gradients.append(rule.gain * gh if rule.gain != 1 else gh)
            gv = rule.beta * gh if rule.beta != 1 else gh
        return torch.stack(gradients[::-1]), gv

    return run


def _slope(rule: LifRule, h: Tensor) -> Tensor:
    return rule.surrogate.derivative(h - rule.threshold)


def _by_membrane(
    rule: LifRule, gs: Tensor, gv: Tensor, slope: Tensor, s: Tensor, h: Tensor | None
) -> Tensor:
    if rule.reset == "hard":
        stays = gv * (~s).to(gv.dtype)
        if h is not None and not rule.detach_reset:
            gs = gs + (rule.v_reset - h) * gv
        return gs * slope + stays
    if rule.reset == "soft" and not rule.detach_reset:
        gs = gs - rule.threshold * gv
    return gs * slope + gv
