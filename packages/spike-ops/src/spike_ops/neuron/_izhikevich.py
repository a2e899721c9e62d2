"""Izhikevich's neurons, in millivolts and milliseconds; steps by Euler's method."""

from typing import Any

from torch import Tensor

from spike_ops._checked import finite
from spike_ops.neuron._base import State
from spike_ops.neuron._membrane import Membrane, filled, positive


class Izhikevich(Membrane):
    """Return the spikes of Izhikevich's neurons, in millivolts and milliseconds.

        h = v + dt (0.04 v² + 5 v + 140 - u + x);   w = u + dt a (b v - u)
        s = Θ(h - 30);   v = c and u = w + d where it fired, else v = h and u = w

    Both are updated from the v and u before the step.

    Source: E. Izhikevich, "Simple Model of Spiking Neurons", IEEE Transactions on Neural Networks
    2003, equations 1 to 3.

    Args:
        a: Rate of recovery.
        b: Sensitivity of the recovery.
        c: Membrane after a spike, and where it begins.
        d: Recovery added by a spike.
        dt: Step of time in milliseconds; above 1 the equations are unstable,
            and 1e-3 is a microsecond.
        options: `surrogate`, `detach_reset`, `steps`, `stateful`, `spike_out`, `backend`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> import torch
        >>> Izhikevich(dt=0.5)(torch.full((200, 1, 1), 10.0)).sum().item() > 1
        True
    """

    def __init__(
        self,
        *,
        a: float = 0.02,
        b: float = 0.2,
        c: float = -65.0,
        d: float = 8.0,
        dt: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(threshold=30.0, v_reset=c, reset="hard", **options)
        positive(dt=dt)
        finite(a=a, b=b, d=d)
        if dt > 1:
            raise ValueError(f"dt must be at most 1 ms, got {dt}: it is in milliseconds")
        self.a, self.b, self.d, self.dt = a, b, d, dt

    @property
    def c(self) -> float:
        """Membrane after a spike, and where it begins."""
        return self.v_reset

    def initial(self, current: Tensor) -> State:
        """Return v = c and u = b c."""
        return (filled(current, self.v_reset), filled(current, self.b * self.v_reset))

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v, u) after it."""
        del constants
        v, u = state
        h = v + self.dt * (0.04 * v * v + 5 * v + 140 - u + current)
        u = u + self.dt * self.a * (self.b * v - u)
        s = self.fire(h - self.threshold)
        jump = s.detach() if self.detach_reset else s
        return s, (self.settle(h, s), u + self.d * jump)
