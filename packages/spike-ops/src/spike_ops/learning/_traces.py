"""Exponential traces over time, forward and in reverse."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from spike_ops._checked import number, tensor

Order = Literal["update_then_use", "use_then_update"]

# fewer values a step than this: a product with the powers of λ beats a call for each step
SMALL_STEP = 4096
STEPS_AT_ONCE = 32


def exactly(like: Tensor) -> torch.autocast:
    """Return a block in which autocast does not round what a rule computes of a tensor."""
    return torch.autocast(like.device.type, enabled=False)


def exponential_trace(
    activity: Tensor, decay: float, *, initial: Tensor | None = None, nearest: bool = False
) -> Tensor:
    """Return the trace after each step [T, ...] of an activity [T, ...].

        x̄[t] = λ x̄[t-1] + x[t];   nearest: x̄[t] = max(λ x̄[t-1], x[t])

    For spikes the first sums λ^(t-t') over all spikes so far, the second takes the last one alone.

    Args:
        activity: x, dense.
        decay: λ in [0, 1].
        initial: x̄ before the first step [...]; zeros if None.
        nearest: Remember the last spike only (spikes, and an initial trace of at most 1).

    Raises:
        ValueError: λ is outside [0, 1], or there is no step.

    Example:
        >>> exponential_trace(torch.tensor([1.0, 0.0, 1.0]), 0.5)
        tensor([1.0000, 0.5000, 1.2500])
        >>> exponential_trace(torch.tensor([1.0, 0.0, 1.0]), 0.5, nearest=True)
        tensor([1.0000, 0.5000, 1.0000])
    """
    _check(activity, decay)
    if nearest:
        return _nearest(activity.clone(), decay, initial)
    if activity[0].numel() < SMALL_STEP:
        return _by_products(activity, decay, initial)
    trace = activity.clone()
    if initial is not None:
        trace[0].add_(initial, alpha=decay)
    for before, after in pairwise(trace.unbind(0)):
        after.add_(before, alpha=decay)
    return trace


def reverse_trace(activity: Tensor, decay: float | Tensor) -> Tensor:
    """Return what is still to come, discounted: R[t] = Σ_{t'>=t} λ^(t'-t) x[t'], [T, ...].

    It is the transpose of `exponential_trace`: Σ_t y[t] x̄[t] = Σ_t R_y[t] x[t].

    Args:
        activity: x, dense [T, ...].
        decay: λ in [0, 1]; or [T, ...], λ[t] between the steps t and t + 1.

    Raises:
        ValueError: λ is outside [0, 1], or there is no step.

    Example:
        >>> reverse_trace(torch.tensor([1.0, 0.0, 1.0]), 0.5)
        tensor([1.2500, 0.5000, 1.0000])
    """
    if isinstance(decay, float | int):
        return _reversed(activity, decay)
    trace = activity.clone()
    for t in range(len(trace) - 2, -1, -1):
        trace[t].addcmul_(decay[t], trace[t + 1])
    return trace


def last_trace(activity: Tensor, decay: float, initial: Tensor) -> Tensor:
    """Return x̄ after the last step alone [...]."""
    weights = powers(decay, len(activity), like=activity).flip(0)
    return torch.tensordot(weights, activity, dims=1).add_(initial, alpha=decay ** len(activity))


def before_use(trace: Tensor, decay: float, initial: Tensor) -> Tensor:
    """Return the decayed trace that a step finds before its own spike: λ x̄[t-1], [T, ...]."""
    return torch.cat([initial[None], trace[:-1]]).mul_(decay)


def powers(decay: float, count: int, *, like: Tensor) -> Tensor:
    """Return 1, λ, λ², ...: [count]."""
    exponents = torch.arange(count, device=like.device, dtype=torch.float64)
    return torch.pow(float(decay), exponents).to(like.dtype)


def matrix_trace(post: Tensor, pre: Tensor, decay: float) -> Tensor:
    """Return Σ_t λ^(T-1-t) post[t,b,j] pre[t,b,i], what a window leaves: [B, N_out, N_in]."""
    weights = powers(decay, len(post), like=post).flip(0)
    left = (post * weights[:, None, None]).permute(1, 2, 0)
    return left @ pre.transpose(0, 1)


def exponential_trace_reference(
    activity: Tensor, decay: float, initial: Tensor, *, nearest: bool = False
) -> Tensor:
    """Return the trace by its definition, step by step: the specification."""
    trace, steps = initial, []
    for x in activity:
        trace = torch.where(x > 0, x, decay * trace) if nearest else decay * trace + x
        steps.append(trace)
    return torch.stack(steps)


def _reversed(activity: Tensor, decay: float) -> Tensor:
    _check(activity, decay)
    if activity[0].numel() < SMALL_STEP:
        return _by_products(activity.flip(0), decay, None).flip(0)
    trace = activity.clone()
    for after, before in pairwise(trace.unbind(0)[::-1]):
        before.add_(after, alpha=decay)
    return trace


def _nearest(activity: Tensor, decay: float, initial: Tensor | None) -> Tensor:
    if initial is not None:
        torch.maximum(activity[0], initial * decay, out=activity[0])
    for before, after in pairwise(activity.unbind(0)):
        torch.maximum(after, before * decay, out=after)
    return activity


def _by_products(activity: Tensor, decay: float, initial: Tensor | None) -> Tensor:
    flat = activity.reshape(len(activity), -1)
    held = None if initial is None else initial.reshape(-1)
    if flat.numel() == 0:
        return activity.clone()
    parts = []
    for part in flat.split(STEPS_AT_ONCE):
        ahead = powers(decay, len(part) + 1, like=part)
        with exactly(part):
            trace = _lower(ahead) @ part
        if held is not None:
            trace.addr_(ahead[1:], held)
        parts.append(trace)
        held = trace[-1]
    return torch.cat(parts).reshape(activity.shape)


def _lower(ahead: Tensor) -> Tensor:
    """Return the matrix whose entry (t, t') is λ^(t-t') for t >= t' and else zero."""
    size = len(ahead) - 1
    steps = torch.arange(size, device=ahead.device)
    return ahead[(steps[:, None] - steps).clamp_(min=0)].tril_()


def _check(activity: Tensor, decay: float) -> None:
    number(decay=decay)
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    if tensor("activity", activity).ndim == 0 or len(activity) == 0:
        raise ValueError(f"activity must have a first axis of time, got {tuple(activity.shape)}")
