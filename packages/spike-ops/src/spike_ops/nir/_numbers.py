"""Constants of a step from a graph's continuous ones, and back to the last bit where it can be.

One Euler step of length dt of τ v' = (v_leak - v) + R I is

    h = β v + g I + c,   β = 1 - dt/τ,  g = R dt/τ,  c = v_leak dt/τ

and of v' = R I it is h = v + R dt I. The way back is rounded: of the numbers next to the quotient
the one is taken that gives the constant of the step again.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.float64]]
Number = float | Tensor
# how many neighbours of a quotient are tried to either side
TRIED = 6


def decay_of(tau: Array, dt: float) -> tuple[Array, Array]:
    """Return dt/τ and β = 1 - dt/τ."""
    rate = dt / tau
    return rate, 1 - rate


def tau_of(beta: Array, dt: float) -> Array:
    """Return τ with 1 - dt/τ = β, for β < 1."""
    return _nearest(dt / (1 - beta), beta, lambda tau: 1 - dt / tau)


def resistance_of(gain: Array, rate: Array) -> Array:
    """Return R with R rate = gain."""
    return _nearest(gain / rate, gain, lambda r: r * rate)


def weight_of(threshold: Array, carried: Array, gain: Array) -> Array:
    """Return the weight w of a spike's feedback with -w gain / carried = θ."""
    return _nearest(-threshold * carried / gain, threshold, lambda w: taken_off(w, carried, gain))


def taken_off(weight: Array, carried: Array, gain: Array) -> Array:
    """Return what a feedback takes off the membrane at a spike: -w gain / carried."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return -weight * gain / carried


def _nearest(start: Array, wanted: Array, back: Callable[[Array], Array]) -> Array:
    best = lower = upper = np.asarray(start, dtype=np.float64)
    missed = np.abs(back(best) - wanted)
    for _ in range(TRIED):
        lower, upper = np.nextafter(lower, -np.inf), np.nextafter(upper, np.inf)
        for tried in (lower, upper):
            misses = np.abs(back(tried) - wanted)
            best, missed = np.where(misses < missed, tried, best), np.minimum(misses, missed)
    return best


def below(threshold: float, dtype: torch.dtype) -> float:
    """Return the next smaller number of a type: h >= θ is h > that, for h of the type."""
    return _beside(threshold, dtype, -torch.inf)


def above(threshold: float, dtype: torch.dtype) -> float:
    """Return the next larger number of a type."""
    return _beside(threshold, dtype, torch.inf)


def _beside(threshold: float, dtype: torch.dtype, side: float) -> float:
    at = torch.tensor(threshold, dtype=dtype)
    return float(torch.nextafter(at, torch.tensor(side, dtype=dtype)))


def common(values: Array) -> float | None:
    """Return the one value of an array; None if there are several."""
    first = values.flat[0]
    return float(first) if bool((values == first).all()) else None


def as_array(value: Any) -> Array:
    """Return a number or a tensor as an array of float64."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)
