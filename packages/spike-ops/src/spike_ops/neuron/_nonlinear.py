"""Neurons with a nonlinear membrane: QIF, EIF, AdEx, Izhikevich; steps by Euler's method."""

from typing import Any

from torch import Tensor

from spike_ops.neuron._base import State
from spike_ops.neuron._membrane import Membrane, filled, positive


class QIF(Membrane):
    """Return the spikes of quadratic integrate-and-fire neurons.

        h = v + dt/τ (a (v - v_rest) (v - v_c) + x);   s = Θ(h - θ), then the reset

    Source: W. Gerstner et al., Neuronal Dynamics, 2014, equation 5.16.

    Args:
        tau: Time constant τ.
        a: Strength of the quadratic term.
        v_rest: Resting potential.
        v_c: Critical potential, above which the membrane runs away by itself.
        dt: Step of time in the unit of `tau`.
        options: Those of `Membrane`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> import torch
        >>> QIF(tau=1.0, v_c=0.5)(torch.full((3, 1, 1), 0.6)).flatten().tolist()
        [0.0, 1.0, 0.0]
    """

    def __init__(
        self,
        tau: float = 2.0,
        *,
        a: float = 1.0,
        v_rest: float = 0.0,
        v_c: float = 0.8,
        dt: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        positive(tau=tau, a=a, dt=dt)
        self.rate, self.a, self.v_rest, self.v_c = dt / tau, a, v_rest, v_c

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v,) after it."""
        del constants
        (v,) = state
        h = v + self.rate * (self.a * (v - self.v_rest) * (v - self.v_c) + current)
        s = self.fire(h - self.threshold)
        return s, (self.settle(h, s),)


class EIF(Membrane):
    """Return the spikes of exponential integrate-and-fire neurons.

        h = v + dt/τ (-(v - v_rest) + Δ e^min((v - θ_rh) / Δ, cut) + x);   s = Θ(h - θ)

    The exponent is cut so that one large current cannot make the membrane infinite.

    Source: W. Gerstner et al., Neuronal Dynamics, 2014, equation 5.6.

    Args:
        tau: Time constant τ.
        delta: Sharpness Δ.
        theta_rheobase: θ_rh.
        v_rest: Resting potential.
        cut: Largest exponent.
        dt: Step of time in the unit of `tau`.
        options: Those of `Membrane`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> import torch
        >>> EIF(tau=2.0)(torch.full((3, 1, 1), 1.0)).flatten().tolist()
        [0.0, 1.0, 0.0]
    """

    def __init__(
        self,
        tau: float = 2.0,
        *,
        delta: float = 1.0,
        theta_rheobase: float = 0.8,
        v_rest: float = 0.0,
        cut: float = 10.0,
        dt: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        positive(tau=tau, delta=delta, dt=dt)
        self.rate, self.delta, self.theta_rheobase = dt / tau, delta, theta_rheobase
        self.v_rest, self.cut = v_rest, cut

    def drive(self, v: Tensor) -> Tensor:
        """Return -(v - v_rest) + Δ e^min((v - θ_rh) / Δ, cut)."""
        exponent = ((v - self.theta_rheobase) * (1 / self.delta)).clamp(max=self.cut)
        return self.delta * exponent.exp() - (v - self.v_rest)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v,) after it."""
        del constants
        (v,) = state
        h = v + self.rate * (self.drive(v) + current)
        s = self.fire(h - self.threshold)
        return s, (self.settle(h, s),)


class AdEx(EIF):
    """Return the spikes of adaptive exponential integrate-and-fire neurons.

        h = v + dt/τ (drive(v) - w + x);   s = Θ(h - θ)
        w <- w + dt/τ_w (a (v - v_rest) - w) + b s

    with the drive of `EIF`; w is updated from the v before the step.

    Source: R. Brette and W. Gerstner, "Adaptive Exponential Integrate-and-Fire Model", Journal of
    Neurophysiology 2005, equations 1 to 3.

    Args:
        tau: Time constant of the membrane.
        tau_w: Time constant of the adaptation.
        a: Adaptation below the threshold.
        b: Adaptation per spike.
        options: Those of `EIF`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> import torch
        >>> AdEx(tau=2.0, b=3.0)(torch.full((6, 1, 1), 1.0)).flatten().int().tolist()
        [0, 1, 0, 0, 0, 0]
    """

    def __init__(
        self,
        tau: float = 2.0,
        *,
        tau_w: float = 20.0,
        a: float = 0.0,
        b: float = 0.1,
        dt: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(tau, dt=dt, **options)
        positive(tau_w=tau_w)
        self.rate_w, self.a, self.b = dt / tau_w, a, b

    def initial(self, current: Tensor) -> State:
        """Return v as of `Membrane`, and w = 0."""
        return (*super().initial(current), filled(current, 0.0))

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v, w) after it."""
        del constants
        v, w = state
        h = v + self.rate * (self.drive(v) - w + current)
        s = self.fire(h - self.threshold)
        w = w + self.rate_w * (self.a * (v - self.v_rest) - w) + self.b * s
        return s, (self.settle(h, s), w)


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
        dt: Step of time in milliseconds; above 1 the equations are unstable.
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
        if dt > 1:
            raise ValueError(f"dt must be at most 1 ms, got {dt}")
        self.a, self.b, self.d, self.dt = a, b, d, dt

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
