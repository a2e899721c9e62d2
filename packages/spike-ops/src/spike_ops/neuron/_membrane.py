"""What neurons with one membrane share: a threshold and a reset."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spike_ops._checked import finite, number, spreads
from spike_ops.neuron._base import Neuron, Reset, State
from spike_ops.neuron._told import differing


class Membrane(Neuron):
    """Return the spikes of neurons that fire at a threshold and are then reset.

    A subclass gives `transition`; it calls `fire` and `settle`.

    Args:
        threshold: θ.
        v_reset: Membrane after a hard reset, and where it begins.
        reset: `"hard"` sets v to `v_reset`, `"soft"` subtracts θ, `"none"` leaves it.
        detach_reset: Take the spike in the reset as a constant in the backward pass.
        options: `surrogate`, `steps`, `stateful`, `spike_out`, `backend` of `Neuron`.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(
        self,
        *,
        threshold: float = 1.0,
        v_reset: float = 0.0,
        reset: Reset = "hard",
        detach_reset: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if reset not in {"hard", "soft", "none"}:
            raise ValueError(f"reset must be hard, soft or none, got {reset!r}")
        number(threshold=threshold)
        finite(v_reset=v_reset)
        if not v_reset < threshold < math.inf:
            told = f"v_reset {v_reset} and threshold {threshold}"
            raise ValueError(f"v_reset must be below a finite threshold, got {told}")
        self.threshold, self.v_reset, self.reset_mode = threshold, v_reset, reset
        self.detach_reset = detach_reset

    def settle(self, h: Tensor, s: Tensor, threshold: Tensor | float | None = None) -> Tensor:
        """Return v after the reset of h where s fired."""
        s = s.detach() if self.detach_reset else s
        if self.reset_mode == "hard":
            return h * (1 - s) + self.v_reset * s
        if self.reset_mode == "soft":
            return h - (self.threshold if threshold is None else threshold) * s
        return h

    def initial(self, current: Tensor) -> State:
        """Return v = v_reset (hard reset) or 0."""
        return (filled(current, self.v_reset if self.reset_mode == "hard" else 0.0),)

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        told = [f"threshold={self.threshold}", f"{self.reset_mode} reset"]
        told += differing(self, but=frozenset({"threshold", "surrogate"}))
        return ", ".join([*told, f"surrogate={self.surrogate}"])


def filled(current: Tensor, value: float) -> Tensor:
    """Return a state of one value in the shape of a step."""
    return torch.full_like(current, value, requires_grad=False)


def check_spread(shape: Sequence[int], currents: Tensor) -> None:
    """Raise unless learned constants of a shape broadcast to a step of currents [T, B, ...]."""
    if shape and not spreads(shape, currents.shape[1:]):
        got = f"steps of {tuple(currents.shape[1:])}"
        raise ValueError(f"currents must fit the neurons' shape {tuple(shape)}, got {got}")


def positive(**values: float) -> None:
    """Raise unless every value is a positive number, by its name; it may be infinite."""
    number(**values)
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def at_least_one(*, tau: float) -> None:
    """Raise unless a time constant is a number of at least one step."""
    number(tau=tau)
    if not tau >= 1:
        raise ValueError(f"tau must be at least 1, got {tau}")
