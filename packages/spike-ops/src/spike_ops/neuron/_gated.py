"""LIF neurons that learn between two kinds of leak, of input and of reset: GLIF."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._checked import finite, number
from spike_ops.neuron._base import State
from spike_ops.neuron._membrane import Membrane, check_spread, filled

GATES = ("alpha", "beta", "gamma", "decay", "conductance")


class GLIF(Membrane):
    r"""Return the spikes of gated LIF neurons.

    With all of α, β, γ, ρ, g in 0..1, learned through a sigmoid, and λ, r learned as they are:

        h[t] = (1 - α (1 - ρ)) (1 - γ s[t-1]) v - (1 - α) λ - (1 - γ) r s[t-1] + (1 - β (1 - g)) x
        s = Θ(h - θ);   v = h

    α goes from a leak of λ a step (0) to an exponential one by ρ (1), β from the whole current (0)
    to a share g of it (1), γ from a reset by r (0) to one to zero (1), both in the step after the
    spike. g is one for all steps, where the source has one for each of a fixed number of steps.

    Source: X. Yao et al., "GLIF: A Unified Gated Leaky Integrate-and-Fire Neuron for Spiking Neural
    Networks", NeurIPS 2022, equations 4 to 10.

    Args:
        alpha: α to begin with, between 0 and 1.
        beta: β, likewise.
        gamma: γ, likewise.
        decay: ρ, likewise.
        conductance: g, likewise.
        leak: λ to begin with.
        subtract: r to begin with; θ without one.
        shape: Shape of every learned constant, which broadcasts to a step [B, ...].
        options: Those of `Membrane` but `reset`, `v_reset` and `detach_reset`.

    Raises:
        ValueError: An argument is outside its range.
        TypeError: An option is one that the gates stand for.

    Example:
        >>> neurons = GLIF(alpha=0.999, beta=0.001, gamma=0.001, decay=0.5)
        >>> neurons(torch.full((5, 1, 1), 0.75)).flatten().tolist()
        [0.0, 1.0, 0.0, 0.0, 1.0]
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 0.5,
        decay: float = 0.5,
        conductance: float = 0.5,
        leak: float = 0.0,
        subtract: float | None = None,
        shape: tuple[int, ...] = (),
        **options: Any,
    ) -> None:
        if gated := options.keys() & {"reset", "v_reset", "detach_reset"}:
            raise TypeError(
                f"GLIF is reset by its gates, so it takes no {', '.join(sorted(gated))}"
            )
        super().__init__(reset="none", **options)
        for name, value in zip(GATES, (alpha, beta, gamma, decay, conductance), strict=True):
            number(**{name: value})
            if not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
            logit = math.log(value) - math.log1p(-value)
            self.register_parameter(name, nn.Parameter(torch.full(shape, logit)))
        finite(leak=leak, subtract=0.0 if subtract is None else subtract)
        self.leak = nn.Parameter(torch.full(shape, float(leak)))
        taken = self.threshold if subtract is None else subtract
        self.subtract = nn.Parameter(torch.full(shape, float(taken)))

    def initial(self, current: Tensor) -> State:
        """Return v = 0 and s = 0."""
        return filled(current, 0.0), filled(current, 0.0)

    def _begin(self, currents: Tensor, state: State | None) -> State:
        check_spread(self.leak.shape, currents)
        return super()._begin(currents, state)

    def constants(self) -> tuple[Tensor, ...]:
        """Return what is learned: α, β, γ, ρ and g before the sigmoid, λ and r."""
        gates: tuple[Tensor, ...] = tuple(getattr(self, name) for name in GATES)
        return (*gates, self.leak, self.subtract)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v, s) after it."""
        v, before = state
        alpha, beta, gamma, rho, g = (each.sigmoid() for each in constants[:5])
        leak, subtract = constants[5:]
        kept = (1 - alpha * (1 - rho)) * (1 - gamma * before) * v
        lost = (1 - alpha) * leak + (1 - gamma) * subtract * before
        h = kept - lost + (1 - beta * (1 - g)) * current
        s = self.fire(h - self.threshold)
        return s, (h, s)
