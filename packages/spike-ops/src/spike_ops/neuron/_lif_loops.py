"""A LIF layer over its steps by torch's operations, forward and backward, and the steps in it.

The derivative of the loss by h and v, backwards in time, with σ' the surrogate's derivative at
h - θ and gv the derivative by v after the step:

    gh = gs σ' + gv                     no reset, or soft and detached
    gh = (gs - θ gv) σ' + gv            soft
    gh = gs σ' + gv (1 - s)             hard and detached
    gh = (gs + (v_r - h) gv) σ' + gv (1 - s)    hard
    gx = g gh,  gv <- β gh

What is kept for it, of each step: "membrane" h itself, "bits" whether h is in the window of a
rectangular surrogate, "bytes" σ' rounded to a byte; with bits and bytes the spikes beside them.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from spike_ops.neuron._lif_rule import LifRule

Kept = Literal["membrane", "bits", "bytes"]


class Run(NamedTuple):
    """Spikes of all steps as numbers and as booleans, what is kept, and the state at the end."""

    dense: Tensor | None
    fired: Tensor | None
    saved: Tensor
    state: Tensor


def stored(kept: Kept, dtype: torch.dtype) -> torch.dtype:
    """Return the type of what is kept."""
    return {"membrane": dtype, "bits": torch.bool, "bytes": torch.uint8}[kept]


def keep(rule: LifRule, h: Tensor, kept: Kept) -> Tensor:
    """Return what the backward pass of a step needs to know of h."""
    if kept == "membrane":
        return h
    u = h - rule.threshold
    if kept == "bits":
        assert rule.surrogate.support is not None
        return u.abs() < rule.surrogate.support
    levels = rule.surrogate.derivative(u) * (255 / rule.surrogate.peak)
    return levels.round().clamp(0, 255).to(torch.uint8)


def slope_of(rule: LifRule, saved: Tensor, kept: Kept, dtype: torch.dtype) -> Tensor:
    """Return σ' from what was kept."""
    if kept == "membrane":
        return rule.surrogate.derivative(saved - rule.threshold)
    peak = rule.surrogate.peak
    return saved.to(dtype) * (peak / 255 if kept == "bytes" else peak)


def by_membrane(
    rule: LifRule, gs: Tensor, gv: Tensor, slope: Tensor, s: Tensor, h: Tensor | None
) -> Tensor:
    """Return gh; `s` are the spikes as numbers, `h` is there where the rule needs it."""
    if rule.reset == "hard":
        if rule.needs_membrane:
            assert h is not None
            gs = gs + (rule.v_reset - h) * gv
        return gs * slope + gv * (1 - s)
    if rule.reset == "soft" and not rule.detach_reset:
        gs = gs - rule.threshold * gv
    return gs * slope + gv


def eager_forward(rule: LifRule, x: Tensor, v: Tensor, *, kept: Kept, dense: bool) -> Run:
    """Return the run of currents x [T, n] from v [n]; boolean spikes where not only dense."""
    both = not dense or kept != "membrane"
    spikes = torch.empty_like(x) if dense else None
    fired = torch.empty(x.shape, dtype=torch.bool, device=x.device) if both else None
    saved = torch.empty(x.shape, dtype=stored(kept, x.dtype), device=x.device)
    v, once = v.clone(), torch.empty_like(v)
    for t, current in enumerate(x.unbind(0)):
        h = saved[t] if kept == "membrane" else torch.empty_like(v)
        torch.mul(current, rule.gain, out=h).add_(v.mul_(rule.beta))
        h = h.add_(rule.offset) if rule.offset else h
        s = spikes[t] if spikes is not None else once
        s.copy_(rule.fire(h))
        if fired is not None:
            fired[t] = s
        if kept != "membrane":
            saved[t] = keep(rule, h, kept)
        _reset(rule, h, s, v)
    return Run(spikes, fired, saved, v)


def _reset(rule: LifRule, h: Tensor, s: Tensor, v: Tensor) -> None:
    if rule.reset == "soft":
        torch.sub(h, s, alpha=rule.threshold, out=v)
    elif rule.reset == "hard":
        torch.addcmul(h, h, s, value=-1, out=v)
        if rule.v_reset:
            v.add_(s, alpha=rule.v_reset)
    else:
        v.copy_(h)


def eager_backward(
    rule: LifRule, gs: Tensor, gv: Tensor, fired: Tensor | None, saved: Tensor, kept: Kept
) -> tuple[Tensor, Tensor]:
    """Return gx [T, n] and gv [n] before the first step."""
    gx = torch.empty_like(gs)
    for t in reversed(range(gs.shape[0])):
        h = saved[t] if kept == "membrane" else None
        s = (rule.fire(saved[t]) if fired is None else fired[t]).to(gs.dtype)
        slope = slope_of(rule, saved[t], kept, gs.dtype)
        gh = by_membrane(rule, gs[t], gv, slope, s, h)
        torch.mul(gh, rule.gain, out=gx[t])
        gv = gh * rule.beta
    return gx, gv
