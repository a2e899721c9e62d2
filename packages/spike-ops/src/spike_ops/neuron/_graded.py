"""Neurons whose output is not a spike alone: LIAF, ILIF, sigma-delta; and CLIF."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spike_ops._checked import counted, finite, number
from spike_ops.neuron._base import Neuron, State
from spike_ops.neuron._membrane import Membrane, at_least_one, filled, positive


def _refuse_bits(options: dict[str, Any], name: str) -> None:
    if options.get("spike_out"):
        raise ValueError(f"{name} has outputs other than 0 and 1: spike_out must be False")


class LIAF(Membrane):
    """Return the analogue outputs of neurons that leak, integrate, fire and reset.

        h = β v + (1 - β) x;   s = Θ(h - θ) resets h;   the output is f(h)

    Source: Z. Wu et al., "LIAF-Net: Leaky Integrate and Analog Fire Network for Lightweight and
    Efficient Spatiotemporal Information Processing", IEEE TNNLS 2021, equation 4.

    Args:
        tau: Time constant, at least 1.
        activation: f, elementwise.
        options: Those of `Membrane`, without `spike_out`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> LIAF(tau=2.0)(torch.full((3, 1, 1), 1.5)).flatten().tolist()
        [0.75, 1.125, 0.75]
    """

    binary = False

    def __init__(
        self,
        tau: float = 2.0,
        *,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        **options: Any,
    ) -> None:
        _refuse_bits(options, "LIAF")
        super().__init__(**options)
        at_least_one(tau=tau)
        if not callable(activation):
            raise TypeError(f"activation must be a function, got {activation!r}")
        self.tau, self.activation = tau, activation

    @property
    def beta(self) -> float:
        """β, the decay of the membrane."""
        return 1 - 1 / self.tau

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return f(h) of one step and (v,) after it."""
        del constants
        h = self.beta * state[0] + (1 - self.beta) * current
        return self.activation(h), (self.settle(h, self.fire(h - self.threshold)),)


class ILIF(Neuron):
    """Return the integer spikes of LIF neurons: how often each fires in a step.

        h = β v + x;   c = round(clip(h / θ, 0, D));   v = h - c θ

    The gradient of c is that of the clipping: 1 / θ where 0 <= h <= D θ, else 0.

    Source: X. Luo et al., "Integer-Valued Training and Spike-Driven Inference Spiking Neural
    Network for High-Performance and Energy-Efficient Object Detection", ECCV 2024, equation 6.

    Args:
        beta: Decay, 0 to 1.
        most: D, the most spikes in a step.
        threshold: θ.
        options: Those of `Neuron`, without `surrogate` and `spike_out`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> ILIF(beta=1.0, most=4)(torch.tensor([2.4, 0.2, 9.0]).reshape(3, 1, 1)).flatten()
        tensor([2., 1., 4.])
    """

    binary = False

    def __init__(
        self, beta: float = 0.25, *, most: int = 4, threshold: float = 1.0, **options: Any
    ) -> None:
        _refuse_bits(options, "ILIF")
        super().__init__(**options)
        number(beta=beta)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be in 0..1, got {beta}")
        positive(threshold=threshold)
        self.beta, self.most, self.threshold = beta, counted("most", most), threshold

    def initial(self, current: Tensor) -> State:
        """Return v = 0."""
        return (filled(current, 0.0),)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the counts of one step and (v,) after it."""
        del constants
        h = self.beta * state[0] + current
        clipped = (h * (1 / self.threshold)).clamp(0, self.most)
        counts = clipped + (clipped.round() - clipped).detach()
        return counts, (h - self.threshold * counts,)


class SigmaDelta(Neuron):
    """Return -1, 0 or 1: the signed changes of a signal that exceed a threshold.

        s = sign(x - r) where |x - r| >= θ, else 0;   r <- r + θ s

    r follows x; what it has not followed is at most θ while x moves by less than θ a step. The
    gradient of s is σ'(x - r - θ) + σ'(r - x - θ) of the surrogate.

    Args:
        threshold: θ.
        options: Those of `Neuron`, without `spike_out`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> SigmaDelta(threshold=0.5)(torch.tensor([0.6, 1.0, 0.2]).reshape(3, 1, 1)).flatten()
        tensor([ 1.,  1., -1.])
    """

    binary = False
    forgets = True  # no sign, no change

    def __init__(self, threshold: float = 0.1, **options: Any) -> None:
        _refuse_bits(options, "SigmaDelta")
        super().__init__(**options)
        positive(threshold=threshold)
        self.threshold = threshold

    def initial(self, current: Tensor) -> State:
        """Return r = 0."""
        return (filled(current, 0.0),)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the signed spikes of one step and (r,) after it."""
        del constants
        change = current - state[0]
        s = self.fire(change - self.threshold) - self.fire(-change - self.threshold)
        return s, (state[0] + self.threshold * s,)


class CLIF(Membrane):
    """Return the spikes of LIF neurons with a complementary membrane that keeps gradients alive.

        h = β v + x;   s = Θ(h - θ);   m <- m σ((1 - β) h) + s;   v = h - s (θ + σ(m))

    Source: Y. Huang et al., "CLIF: Complementary Leaky Integrate-and-Fire Neuron for Spiking
    Neural Networks", ICML 2024, equations 11 to 15.

    Args:
        tau: Time constant, at least 1; β = 1 - 1/τ.
        options: Those of `Membrane`, without `reset` and `v_reset`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> CLIF(tau=2.0)(torch.full((4, 1, 1), 1.0)).flatten().tolist()
        [1.0, 0.0, 1.0, 0.0]
    """

    def __init__(self, tau: float = 2.0, **options: Any) -> None:
        if fixed := options.keys() & {"reset", "v_reset"}:
            told = f"CLIF subtracts θ + σ(m), so it takes no {', '.join(sorted(fixed))}"
            raise TypeError(told)
        super().__init__(reset="soft", **options)
        at_least_one(tau=tau)
        finite(tau=tau)
        self.tau = tau

    @property
    def beta(self) -> float:
        """β, the decay of the membrane."""
        return 1 - 1 / self.tau

    def initial(self, current: Tensor) -> State:
        """Return v = 0 and m = 0."""
        return (filled(current, 0.0), filled(current, 0.0))

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v, m) after it."""
        del constants
        v, m = state
        h = self.beta * v + current
        s = self.fire(h - self.threshold)
        m = m * ((1 - self.beta) * h).sigmoid() + s
        return s, (self.settle(h, s, self.threshold + m.sigmoid()), m)
