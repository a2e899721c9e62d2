"""Neurons with a nonlinear membrane: QIF, EIF, AdEx; steps by Euler's method."""

from typing import Any

from torch import Tensor

from spike_ops._checked import finite
from spike_ops.neuron._base import State
from spike_ops.neuron._membrane import Membrane, filled, positive


class Euler(Membrane):
    """A membrane by Euler's method: h = v + dt/τ (drive(v) + x);   s = Θ(h - θ), then the reset."""

    tau: float
    dt: float

    @property
    def rate(self) -> float:
        """dt/τ."""
        return self.dt / self.tau

    def drive(self, v: Tensor) -> Tensor:
        """Return what moves the membrane beside the current."""
        raise self._lacking("drive, what moves the membrane")

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v,) after it."""
        del constants
        (v,) = state
        h = v + self.rate * (self.drive(v) + current)
        s = self.fire(h - self.threshold)
        return s, (self.settle(h, s),)


class QIF(Euler):
    """Return the spikes of quadratic integrate-and-fire neurons.

        h = v + dt/τ (a (v - v_rest) (v - v_c) + x);   s = Θ(h - θ), then the reset

    Source: W. Gerstner et al., Neuronal Dynamics, 2014, equation 5.16.

    Args:
        tau: Time constant τ.
        a: Strength of the quadratic term.
        v_rest: Resting potential.
        v_c: Critical potential, above which the membrane runs away by itself.
        dt: Step of time in the unit of `tau`: 1e-3 where that is in seconds.
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
        finite(v_rest=v_rest, v_c=v_c)
        self.tau, self.a, self.v_rest, self.v_c, self.dt = tau, a, v_rest, v_c, dt

    def drive(self, v: Tensor) -> Tensor:
        """Return a (v - v_rest) (v - v_c)."""
        return self.a * (v - self.v_rest) * (v - self.v_c)


class EIF(Euler):
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
        dt: Step of time in the unit of `tau`: 1e-3 where that is in seconds.
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
        finite(theta_rheobase=theta_rheobase, v_rest=v_rest, cut=cut)
        self.tau, self.delta, self.theta_rheobase = tau, delta, theta_rheobase
        self.v_rest, self.cut, self.dt = v_rest, cut, dt

    def drive(self, v: Tensor) -> Tensor:
        """Return -(v - v_rest) + Δ e^min((v - θ_rh) / Δ, cut)."""
        exponent = ((v - self.theta_rheobase) * (1 / self.delta)).clamp(max=self.cut)
        return self.delta * exponent.exp() - (v - self.v_rest)


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
        finite(a=a, b=b)
        self.tau_w, self.a, self.b = tau_w, a, b

    @property
    def rate_w(self) -> float:
        """dt/τ_w."""
        return self.dt / self.tau_w

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
