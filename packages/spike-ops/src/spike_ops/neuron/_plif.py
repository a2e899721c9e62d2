"""LIF neurons with something to learn beside the weights: PLIF and KLIF."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._checked import number
from spike_ops.neuron._base import State
from spike_ops.neuron._membrane import Membrane, at_least_one, check_spread, positive


class PLIF(Membrane):
    """Return the spikes of LIF neurons whose time constant is learned.

    With 1/τ = σ(w) and w a parameter:

        h = v + σ(w) (x - (v - v_r))    decay_input
        h = v - σ(w) (v - v_r) + x      otherwise
        s = Θ(h - θ), then the reset; v_r is `v_reset` with a hard reset, else 0

    Source: W. Fang et al., "Incorporating Learnable Membrane Time Constant to Enhance Learning of
    Spiking Neural Networks", ICCV 2021, equations 5 and 9.

    Args:
        tau: Time constant to begin with, greater than 1.
        shape: Shape of w, which broadcasts to a step [B, ...]; () is one for the layer.
        decay_input: Whether the current is weighted by 1/τ.
        options: Those of `Membrane`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> neurons = PLIF(tau=2.0, reset="soft")
        >>> neurons(torch.full((4, 1, 1), 1.5)).flatten().tolist()
        [0.0, 1.0, 0.0, 1.0]
        >>> round(neurons.tau.item(), 3)
        2.0
    """

    def __init__(
        self,
        tau: float = 2.0,
        *,
        shape: tuple[int, ...] = (),
        decay_input: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        number(tau=tau)
        if not 1 < tau < math.inf:
            raise ValueError(f"tau must be greater than 1 and finite, got {tau}")
        self.w = nn.Parameter(torch.full(shape, -math.log(tau - 1)))
        self.decay_input = decay_input

    def _begin(self, currents: Tensor, state: State | None) -> State:
        check_spread(self.w.shape, currents)
        return super()._begin(currents, state)

    @property
    def tau(self) -> Tensor:
        """The time constants now."""
        return 1 / self.w.sigmoid()

    def constants(self) -> tuple[Tensor, ...]:
        """Return w."""
        return (self.w,)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v,) after it."""
        (v,), rate = state, constants[0].sigmoid()
        rest = v - self.v_reset if self.reset_mode == "hard" else v
        h = v + rate * (current - rest) if self.decay_input else v - rate * rest + current
        s = self.fire(h - self.threshold)
        return s, (self.settle(h, s),)


class KLIF(Membrane):
    """Return the spikes of LIF neurons with a learned slope in front of the threshold.

        h = β v + (1 - β) x;  f = max(k h, 0);  s = Θ(f - θ), then f is reset

    Source: C. Jiang and Y. Zhang, "KLIF: An optimized spiking neuron unit for tuning surrogate
    gradient slope and membrane potential", 2023, equations 7 and 8.

    Args:
        tau: Time constant, at least 1.
        slope: k to begin with.
        options: Those of `Membrane`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> KLIF(tau=2.0, slope=2.0)(torch.full((3, 1, 1), 0.75)).flatten().tolist()
        [0.0, 1.0, 0.0]
    """

    forgets = True  # -inf is cut off

    def __init__(self, tau: float = 2.0, *, slope: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        positive(slope=slope)
        at_least_one(tau=tau)
        self.tau = tau
        self.k = nn.Parameter(torch.tensor(float(slope)))

    @property
    def beta(self) -> float:
        """β, the decay of the membrane."""
        return 1 - 1 / self.tau

    def constants(self) -> tuple[Tensor, ...]:
        """Return k."""
        return (self.k,)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v,) after it."""
        h = self.beta * state[0] + (1 - self.beta) * current
        f = (constants[0] * h).relu()
        s = self.fire(f - self.threshold)
        return s, (self.settle(f, s),)
