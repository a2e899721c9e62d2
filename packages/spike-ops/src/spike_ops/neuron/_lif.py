"""Leaky and perfect integrate-and-fire neurons."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from spike_ops.neuron._base import Choice, Neuron, Reset, State
from spike_ops.neuron._compiled import is_built, remember_built
from spike_ops.neuron._lif_fused import Saving, lif
from spike_ops.neuron._lif_rule import LifRule

Discretization = Literal["euler", "exponential"]


class LIF(Neuron):
    r"""Return the spikes of leaky integrate-and-fire neurons.

    One step, with β = 1 - 1/τ ("euler") or e^(-1/τ) ("exponential"):

        h = β v + (1 - β) (x + v_leak)      decay_input
        h = β v + x + (1 - β) v_leak        otherwise
        s = Θ(h - θ)
        v = h (1 - s) + v_reset s  "hard";   v = h - θ s  "soft";   v = h  "none"

    Args:
        tau: Time constant τ in steps, at least 1 (Euler).
        threshold: θ > 0.
        v_reset: Membrane after a hard reset, and where it begins.
        reset: `"hard"`, `"soft"` or `"none"`.
        decay_input: Whether the current is weighted by 1 - β.
        v_leak: Where the membrane leaks to; `v_reset` with a hard reset, else 0.
        detach_reset: Take the spike in the reset as a constant in the backward pass.
        strict: Fire for h > θ only; otherwise for h >= θ.
        discretization: How β follows from τ.
        saving: What the fused backward pass keeps: `"exact"`, which is two bits for the
            rectangular surrogate (detached or soft reset) and the membrane otherwise, or `"8bit"`,
            which rounds any surrogate's derivative to a byte.
        options: `surrogate`, `steps`, `stateful`, `spike_out`, `backend` of `Neuron`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> neurons = LIF(tau=2.0, reset="soft")
        >>> neurons(torch.full((4, 1, 1), 1.5)).flatten()
        tensor([0., 1., 0., 1.])
    """

    def __init__(
        self,
        tau: float = 2.0,
        *,
        threshold: float = 1.0,
        v_reset: float = 0.0,
        reset: Reset = "hard",
        decay_input: bool = True,
        v_leak: float | None = None,
        detach_reset: bool = False,
        strict: bool = False,
        discretization: Discretization = "euler",
        saving: Saving = "exact",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        beta = decay(tau, discretization)
        _check(threshold=threshold, v_reset=v_reset, reset=reset, saving=saving)
        leak = v_leak if v_leak is not None else v_reset if reset == "hard" else 0.0
        gain = 1 - beta if decay_input else 1.0
        self.tau, self.saving = tau, saving
        self.rule = LifRule(
            beta, gain, (1 - beta) * leak, threshold, v_reset, reset,
            detach_reset, strict, self.surrogate,
        )  # fmt: skip

    def initial(self, current: Tensor) -> State:
        """Return v = v_reset (hard reset) or 0."""
        start = self.rule.v_reset if self.rule.reset == "hard" else 0.0
        return (torch.full_like(current, start, requires_grad=False),)

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v,) after it."""
        rule = self.rule
        h = rule.charge(current, state[0])
        s = self.surrogate(h - rule.threshold, strict=rule.strict)
        s = s.to_dense() if hasattr(s, "packed") else s
        return s, (rule.after(h, s),)

    def explain(self, currents: Tensor) -> Choice:
        """Return which backend runs these currents, and why."""
        if not getattr(self.surrogate, "spiking", True):
            return Choice("reference", "a surrogate that does not spike has no fused form")
        if self.backend == "triton":
            raise ValueError("backend 'triton' needs currents on a CUDA device")
        if self.backend != "auto":
            return Choice(self.backend, "as asked")
        if is_built(self.rule, currents):
            return Choice("compiled", "built for this number of steps")
        return Choice("eager", "needs no compiler; build(neuron, currents) makes a faster one")

    def _over_time(self, currents: Tensor, state: State) -> tuple[Tensor, State]:
        backend = self.explain(currents).backend
        if backend == "reference":
            return self._step_by_step(currents, state)
        spikes, v = lif(
            currents, state[0], self.rule,
            saving=self.saving, compiled=backend == "compiled", spike_out=self.spike_out,
        )  # fmt: skip
        return spikes, (v,)

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        rule = self.rule
        return f"tau={self.tau}, threshold={rule.threshold}, {rule.reset} reset, " + (
            super().extra_repr()
        )


class IF(LIF):
    """Return the spikes of perfect integrators: h = v + x, fired and reset as in `LIF`.

    Args:
        options: Those of `LIF` but `tau`, `decay_input`, `v_leak` and `discretization`.

    Example:
        >>> IF(reset="soft")(torch.full((4, 1, 1), 0.75)).flatten()
        tensor([0., 1., 1., 1.])
    """

    def __init__(self, **options: Any) -> None:
        if fixed := options.keys() & {"tau", "decay_input", "v_leak", "discretization"}:
            raise TypeError(f"IF has no leak, so it takes no {', '.join(sorted(fixed))}")
        super().__init__(tau=math.inf, decay_input=False, **options)


def decay(tau: float, discretization: Discretization) -> float:
    """Return β: 1 - 1/τ ("euler") or e^(-1/τ) ("exponential")."""
    if discretization not in {"euler", "exponential"}:
        raise ValueError(f"discretization must be euler or exponential, got {discretization!r}")
    least = 1.0 if discretization == "euler" else 0.0
    if not (tau >= least and tau > 0):
        raise ValueError(f"tau must be at least {least:g} steps ({discretization}), got {tau}")
    return 1 - 1 / tau if discretization == "euler" else math.exp(-1 / tau)


def _check(*, threshold: float, v_reset: float, reset: str, saving: str) -> None:
    if not (threshold > 0 and math.isfinite(threshold)):
        raise ValueError(f"threshold must be positive and finite, got {threshold}")
    if reset not in {"hard", "soft", "none"}:
        raise ValueError(f"reset must be hard, soft or none, got {reset!r}")
    if not v_reset < threshold:
        raise ValueError(f"v_reset must be below the threshold {threshold}, got {v_reset}")
    if saving not in {"exact", "8bit"}:
        raise ValueError(f"saving must be exact or 8bit, got {saving!r}")


def build(neuron: LIF, currents: Tensor) -> Choice:
    """Compile a neuron's loops for such currents, forward and backward; return what runs now.

    Takes the compiler's time, seconds to a minute, once per process: `backend="auto"` then uses
    what was built. Currents with the same number of steps, type and device are served by it.

    Raises:
        RuntimeError: There is no working C++ compiler.
    """
    x = currents.detach().clone().requires_grad_()
    state = neuron.initial(x[0])
    try:
        spikes, _ = lif(
            x, state[0], neuron.rule, saving=neuron.saving, compiled=True, spike_out=False
        )
        spikes.sum().backward()
    except Exception as error:
        raise RuntimeError(f"the loops of {type(neuron).__name__} could not be compiled") from error
    remember_built(neuron.rule, currents)
    return neuron.explain(currents)
