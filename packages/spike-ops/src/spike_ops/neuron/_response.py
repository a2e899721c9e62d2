"""Spike response neurons and short-term plasticity of synapses."""

import math
from typing import Any

from torch import Tensor

from spike_ops._checked import number
from spike_ops.neuron._base import Neuron, State
from spike_ops.neuron._membrane import filled, positive


class SRM(Neuron):
    """Return the spikes of spike response neurons: one kernel for inputs, one for own spikes.

        u[t] = Σ_{k<=t} ε[t - k] x[k] + Σ_{k<t} η[t - k] s[k];   s[t] = Θ(u[t] - θ)
        ε[j] = (e^(-j/τ) - e^(-j/τ_s)) τ / (τ - τ_s);   η[j] = -θ e^(-j/τ_r)

    Both kernels are sums of exponentials, so that three states replace the sums. ε[0] is 0: an
    input acts from the next step on.

    Source: W. Gerstner et al., Neuronal Dynamics, 2014, section 6.4.

    Args:
        tau: Time constant τ of the membrane.
        tau_synapse: Time constant τ_s of the synapse, another than τ.
        tau_refractory: Time constant τ_r of what a spike leaves behind.
        threshold: θ.
        options: Those of `Neuron`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> import torch
        >>> SRM()(torch.full((8, 1, 1), 0.8)).flatten().int().tolist()
        [0, 0, 0, 0, 1, 0, 0, 1]
    """

    def __init__(
        self,
        tau: float = 10.0,
        *,
        tau_synapse: float = 5.0,
        tau_refractory: float = 10.0,
        threshold: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        positive(tau=tau, tau_synapse=tau_synapse, tau_refractory=tau_refractory)
        positive(threshold=threshold)
        if tau == tau_synapse:
            raise ValueError(f"tau_synapse must differ from tau, got {tau} for both")
        self.tau, self.tau_synapse, self.tau_refractory = tau, tau_synapse, tau_refractory
        self.threshold = threshold

    @property
    def decays(self) -> tuple[float, float, float]:
        """Decays of membrane, synapse and refractory state."""
        slow, fast, after = self.tau, self.tau_synapse, self.tau_refractory
        return math.exp(-1 / slow), math.exp(-1 / fast), math.exp(-1 / after)

    @property
    def scale(self) -> float:
        """τ / (τ - τ_s)."""
        return self.tau / (self.tau - self.tau_synapse)

    def initial(self, current: Tensor) -> State:
        """Return the three states, zero."""
        return (filled(current, 0.0), filled(current, 0.0), filled(current, 0.0))

    def membrane(self, state: State) -> Tensor:
        """Return u after the step, its own spike taken off."""
        slow, fast, after = state
        return self.scale * (slow - fast) - self.threshold * after

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (membrane, synapse, refractory) sums after it."""
        del constants
        slow, fast, after = state
        by_tau, by_synapse, by_refractory = self.decays
        slow, fast = by_tau * slow + current, by_synapse * fast + current
        after = by_refractory * after
        s = self.fire(self.scale * (slow - fast) - self.threshold * after - self.threshold)
        return s, (slow, fast, after + s)


class TsodyksMarkram(Neuron):
    """Return what synapses with short-term plasticity pass on of spikes [T, B, ...].

    With utilisation u and resources x, a step is

        u⁺ = u + U (1 - u) s;   r = u⁺ x s  (the output)
        x <- x - r + (1 - x) / τ_d;   u <- u⁺ + (U - u⁺) / τ_f

    Depressing for τ_d > τ_f, facilitating for τ_f > τ_d. An s between 0 and 1 is a weaker spike.

    Source: M. Tsodyks, K. Pawelzik and H. Markram, "Neural Networks with Dynamic Synapses", Neural
    Computation 1998, equations 1 to 3.

    Args:
        utilization: U, in 0 to 1.
        tau_depression: τ_d in steps, at least 1.
        tau_facilitation: τ_f in steps, at least 1.
        options: `steps`, `stateful`, `backend` of `Neuron`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> import torch
        >>> synapses = TsodyksMarkram(0.5, tau_depression=1e9, tau_facilitation=1.0)
        >>> synapses(torch.ones(3, 1, 1)).flatten()
        tensor([0.7500, 0.1875, 0.0469])
    """

    binary = False

    def __init__(
        self,
        utilization: float = 0.2,
        *,
        tau_depression: float = 200.0,
        tau_facilitation: float = 20.0,
        **options: Any,
    ) -> None:
        if options.get("spike_out"):
            raise ValueError("the output of a synapse is not 0 or 1: spike_out must be False")
        super().__init__(**options)
        number(utilization=utilization)
        number(tau_depression=tau_depression, tau_facilitation=tau_facilitation)
        if not 0 < utilization <= 1:
            raise ValueError(f"utilization must be in 0..1, got {utilization}")
        for name, tau in (("depression", tau_depression), ("facilitation", tau_facilitation)):
            if not tau >= 1:
                raise ValueError(f"tau_{name} must be at least 1, got {tau}")
        self.utilization = utilization
        self.tau_depression, self.tau_facilitation = tau_depression, tau_facilitation

    def initial(self, current: Tensor) -> State:
        """Return u = U and x = 1."""
        return (filled(current, self.utilization), filled(current, 1.0))

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return r of one step and (u, x) after it."""
        del constants
        u, x = state
        u = u + self.utilization * (1 - u) * current
        r = u * x * current
        x = x - r + (1 - x) * (1 / self.tau_depression)
        return r, (u + (self.utilization - u) * (1 / self.tau_facilitation), x)
