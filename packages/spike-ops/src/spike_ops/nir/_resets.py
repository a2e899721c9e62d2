"""Soft resets in a graph: a membrane before a threshold that takes something off it at a spike.

NIR's neurons know a hard reset only. A soft one is three nodes that any reader runs: the membrane
(`LI` or `I`), a `Threshold`, and a `Scale` from the spikes back to the membrane. An edge that
closes a circle takes one step, so that at step t the membrane

    h[t] = β h[t-1] + g x[t] + c + g w s[t-1],   w = -κ θ / g

is that of a soft reset in the same step for κ = β (β (h - θ s) is what the next step begins with)
and of a reset one step later, after the leak, for κ = 1. A node with a hard reset may also carry
the soft one in its metadata, which readers pass on or leave alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spike_ops.nir._errors import NirError
from spike_ops.nir._graph import Plan, kind_of
from spike_ops.nir._numbers import Array, above, as_array, common, decay_of, taken_off

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CLOSE = 1e-6


@dataclass
class SoftReset:
    """A neuron with a soft reset in place of the three nodes."""

    membrane: Any
    threshold: Array
    strict: bool
    delay: bool


def soft_metadata(threshold: Array, delay: bool) -> dict[str, Any]:
    """Return the metadata of a node that stands for a neuron with a soft reset."""
    return {"reset": "soft", "reset_by": threshold, "reset_delay": int(delay)}


def told_soft(name: str, node: Any, threshold: Array) -> SoftReset | None:
    """Return the soft reset that a node's metadata tell of, if they do.

    Raises:
        NirError: They say something else than `soft_metadata`.
    """
    told = getattr(node, "metadata", None) or {}
    if not isinstance(told, dict) or str(told.get("reset")) != "soft":
        return None
    try:
        by, delay = as_array(told["reset_by"]), int(np.asarray(told["reset_delay"]))
        same = _same(np.broadcast_to(by, threshold.shape), threshold)
    except (KeyError, TypeError, ValueError) as error:
        raise NirError(name, f"metadata of a soft reset must be whole: {error!r}") from error
    if same is None or delay not in {0, 1}:
        rule = (
            f"metadata of a soft reset must have reset_by = v_threshold = {threshold.ravel()[:4]}"
        )
        raise NirError(name, f"{rule} and reset_delay 0 or 1, got {by.ravel()[:4]} and {delay}")
    return SoftReset(node, same[0], same[1], bool(delay))


def with_soft_resets(plan: Plan, dt: float) -> Plan:
    """Return the plan with every soft reset of three nodes as one neuron."""
    plan = Plan(dict(plan.nodes), list(plan.edges))
    for fires in plan.kinds("Threshold"):
        found = _parts(plan, fires)
        if found is None:
            continue
        membrane, feedback = found
        neuron = _soft(plan.nodes[membrane], plan.nodes[fires], plan.nodes[feedback], dt)
        if neuron is None:
            continue
        for name in (feedback, membrane):
            del plan.nodes[name]
        edges = [edge for edge in plan.edges if feedback not in edge and edge != (membrane, fires)]
        plan.edges = [(a, fires if b == membrane else b) for a, b in edges]
        plan.nodes[fires] = neuron
    return plan


def _parts(plan: Plan, fires: str) -> tuple[str, str] | None:
    """Return the names of membrane and feedback of a threshold, if they are a soft reset."""
    heard = plan.before(fires)
    if len(heard) != 1 or kind_of(plan.nodes[heard[0]]) not in {"I", "LI"}:
        return None
    membrane = heard[0]
    if plan.after(membrane) != [fires]:
        return None
    for name in plan.after(fires):
        is_between = plan.before(name) == [fires] and plan.after(name) == [membrane]
        if is_between and _diagonal(plan.nodes[name]) is not None:
            return membrane, name
    return None


def _diagonal(node: Any) -> Array | None:
    """Return the factors of a node that scales every neuron by its own."""
    if kind_of(node) == "Scale":
        return as_array(node.scale)
    if kind_of(node) != "Linear":
        return None
    weight = as_array(node.weight)
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        return None
    own = np.diag(weight)
    return own if np.array_equal(weight, np.diag(own)) else None


def _soft(membrane: Any, fires: Any, feedback: Any, dt: float) -> SoftReset | None:
    weight, threshold = _diagonal(feedback), as_array(fires.threshold)
    assert weight is not None
    beta, gain = _step(membrane, dt)
    sizes = {each.shape for each in (weight, threshold, beta) if each.size > 1}
    if len(sizes) > 1 or not all(np.isfinite(each).all() for each in (weight, beta, gain)):
        return None
    for delay in (False, True):
        taken = taken_off(weight, np.ones_like(beta) if delay else beta, gain)
        if (same := _same(taken, threshold)) is not None:
            return SoftReset(membrane, same[0], same[1], delay)
    return None


def _step(membrane: Any, dt: float) -> tuple[Array, Array]:
    r = as_array(membrane.r)
    if kind_of(membrane) == "I":
        return np.ones_like(r), dt * r
    with np.errstate(divide="ignore", invalid="ignore"):
        rate, beta = decay_of(as_array(membrane.tau), dt)
    return beta, r * rate


def _same(taken: Array, threshold: Array) -> tuple[Array, bool] | None:
    """Return the threshold of which `taken` is the reset, and whether it itself does not fire."""
    if not np.isfinite(taken).all():
        return None
    if np.array_equal(np.broadcast_to(threshold, taken.shape), taken):
        return threshold, True
    one, off = common(threshold), common(taken)
    if one is not None and off is not None:
        for dtype in TYPES:
            next_one = above(one, dtype)
            is_of_type = float(torch.tensor(one, dtype=dtype)) == one < off
            if is_of_type and np.isclose(next_one, off, rtol=1e-15, atol=0):
                return np.full_like(threshold, next_one), False
    close = np.allclose(taken, threshold, rtol=CLOSE, atol=0)
    return (threshold, True) if close else None
