"""The arithmetic of a leaky integrator that fires: one definition for every way of running it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from spike_ops.neuron._base import Reset
from spike_ops.surrogate import Surrogate, heaviside


@dataclass(frozen=True)
class LifRule:
    """Constants of h = β v + g x + c; s = Θ(h - θ); v = h reset where it fired."""

    beta: float
    gain: float
    offset: float
    threshold: float
    v_reset: float
    reset: Reset
    detach_reset: bool
    strict: bool
    surrogate: Surrogate
    reset_delay: bool = False

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """Return h = β v + g x + c."""
        h = self.beta * v if self.beta != 1 else v
        h = h + (self.gain * x if self.gain != 1 else x)
        return h + self.offset if self.offset else h

    def fire(self, h: Tensor) -> Tensor:
        """Return where h reaches the threshold, as booleans."""
        return heaviside(h - self.threshold, strict=self.strict)

    def step(
        self, x: Tensor, v: Tensor, fire: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the spikes and the state after one step.

        Dense spikes of h - θ are made by `fire`; without one by the surrogate.
        """
        fire = fire or partial(self.surrogate.dense, strict=self.strict)
        if self.reset_delay:
            before = fire(v - self.threshold)
            if self.reset == "hard":
                h = self.charge(x, self.after(v, before))
            else:
                h = self.after(self.charge(x, v), before)
            return fire(h - self.threshold), h
        h = self.charge(x, v)
        s = fire(h - self.threshold)
        return s, self.after(h, s)

    def after(self, h: Tensor, s: Tensor) -> Tensor:
        """Return v after the reset; `s` are zeros and ones that may carry a gradient."""
        if self.detach_reset:
            s = s.detach()
        if self.reset == "hard":
            return h * (1 - s) + self.v_reset * s if self.v_reset else h * (1 - s)
        return h - self.threshold * s if self.reset == "soft" else h

    @property
    def needs_membrane(self) -> bool:
        """Whether the backward pass needs h itself: where a hard reset carries a gradient."""
        return self.reset == "hard" and not self.detach_reset
