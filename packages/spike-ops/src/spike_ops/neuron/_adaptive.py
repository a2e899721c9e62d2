"""Neurons with a second state: an adaptive threshold (ALIF), a synaptic current (CUBA)."""

import math
from typing import Any, Literal

from torch import Tensor

from spike_ops._checked import number
from spike_ops.neuron._base import State
from spike_ops.neuron._membrane import Membrane, filled, positive


class ALIF(Membrane):
    """Return the spikes of LIF neurons whose threshold rises with every spike and decays.

    With β = e^(-1/τ) and ρ = e^(-1/τ_a), a step is

        h = β v + g x;   θ' = θ + κ a;   s = Θ(h - θ')
        v = reset of h (soft: h - θ' s);   a <- ρ a + s

    g is 1 - β with `decay_input` and 1 without.

    Source: G. Bellec et al., "Long short-term memory and learning-to-learn in networks of spiking
    neurons", NeurIPS 2018, equations 1 and 2.

    Args:
        tau: Time constant of the membrane.
        tau_adaptation: Time constant of the threshold, τ_a.
        kappa: Rise of the threshold per spike, κ >= 0.
        decay_input: Whether the current is weighted by 1 - β.
        options: Those of `Membrane`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> import torch
        >>> neurons = ALIF(tau=1.0, kappa=1.0, decay_input=False, reset="soft")
        >>> neurons(torch.full((8, 1, 1), 1.2)).flatten().int().tolist()
        [1, 0, 0, 0, 0, 0, 0, 0]
    """

    def __init__(
        self,
        tau: float = 20.0,
        *,
        tau_adaptation: float = 200.0,
        kappa: float = 0.1,
        decay_input: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        positive(tau=tau, tau_adaptation=tau_adaptation)
        number(kappa=kappa)
        if not kappa >= 0:
            raise ValueError(f"kappa must not be negative, got {kappa}")
        self.tau, self.tau_adaptation = tau, tau_adaptation
        self.kappa, self.decay_input = kappa, decay_input

    @property
    def beta(self) -> float:
        """β, the decay of the membrane."""
        return math.exp(-1 / self.tau)

    @property
    def rho(self) -> float:
        """ρ, the decay of the threshold."""
        return math.exp(-1 / self.tau_adaptation)

    @property
    def gain(self) -> float:
        """g, the weight of the current."""
        return 1 - self.beta if self.decay_input else 1.0

    def initial(self, current: Tensor) -> State:
        """Return v as of `Membrane`, and a = 0."""
        return (*super().initial(current), filled(current, 0.0))

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v, a) after it."""
        del constants
        v, a = state
        h = self.beta * v + self.gain * current
        threshold = self.threshold + self.kappa * a
        s = self.fire(h - threshold)
        return s, (self.settle(h, s, threshold), self.rho * a + s)


class CUBA(Membrane):
    """Return the spikes of LIF neurons whose input is a current that decays.

    With α = e^(-1/τ_syn) and β = e^(-1/τ):

        i <- α i + x;   h = β v + i;   s = Θ(h - θ)    order "current first"
        h = β v + i;   i <- α i + x;   s = Θ(h - θ)    order "membrane first"

    The first lets an input reach the membrane in its own step, the second in the next.

    Args:
        tau_synapse: Time constant of the current, τ_syn.
        tau: Time constant of the membrane.
        order: Which of the two is updated first.
        options: Those of `Membrane`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> import torch
        >>> pulse = torch.zeros(3, 1, 1)
        >>> pulse[0] = 2.0
        >>> CUBA(order="membrane first")(pulse).flatten().tolist()
        [0.0, 1.0, 1.0]
    """

    def __init__(
        self,
        tau_synapse: float = 5.0,
        tau: float = 10.0,
        *,
        order: Literal["current first", "membrane first"] = "current first",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        positive(tau_synapse=tau_synapse, tau=tau)
        if order not in {"current first", "membrane first"}:
            raise ValueError(f"order must be 'current first' or 'membrane first', got {order!r}")
        self.tau_synapse, self.tau, self.order = tau_synapse, tau, order

    @property
    def alpha(self) -> float:
        """α, the decay of the current."""
        return math.exp(-1 / self.tau_synapse)

    @property
    def beta(self) -> float:
        """β, the decay of the membrane."""
        return math.exp(-1 / self.tau)

    def initial(self, current: Tensor) -> State:
        """Return v as of `Membrane`, and i = 0."""
        return (*super().initial(current), filled(current, 0.0))

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v, i) after it."""
        del constants
        v, i = state
        after = self.alpha * i + current
        h = self.beta * v + (after if self.order == "current first" else i)
        s = self.fire(h - self.threshold)
        return s, (self.settle(h, s), after)
