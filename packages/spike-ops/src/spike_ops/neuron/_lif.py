"""Leaky and perfect integrate-and-fire neurons."""

import math
import os
from typing import Any

import torch
from torch import Tensor

from spike_ops._checked import finite
from spike_ops._gpu import kernels
from spike_ops.neuron._backends import Choice
from spike_ops.neuron._base import Reset, State
from spike_ops.neuron._lif_fused import Saving, kept_for, lif
from spike_ops.neuron._lif_kernel import is_built, lif_kernels
from spike_ops.neuron._lif_rule import LifRule
from spike_ops.neuron._lif_settings import Discretization, LifSettings, check_lif, decay
from spike_ops.neuron._told import differing


class LIF(LifSettings):
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
        reset_delay: Reset one step later, as snnTorch does by default: the state is h, and where
            it reached θ the next step subtracts θ after the leak ("soft") or begins at v_reset.
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
        reset_delay: bool = False,
        discretization: Discretization = "euler",
        saving: Saving = "exact",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        beta = decay(tau, discretization)
        check_lif(
            threshold=threshold, v_reset=v_reset, reset=reset, saving=saving,
            surrogate=self.surrogate,
        )  # fmt: skip
        if v_leak is not None:
            finite(v_leak=v_leak)
        leak = v_leak if v_leak is not None else v_reset if reset == "hard" else 0.0
        gain = 1 - beta if decay_input else 1.0
        self.saving = saving
        self._tau, self._time = tau, (discretization, decay_input, v_leak)
        self.rule = LifRule(
            beta, gain, (1 - beta) * leak, threshold, v_reset, reset,
            detach_reset, strict, self.surrogate, reset_delay,
        )  # fmt: skip

    def initial(self, current: Tensor) -> State:
        """Return v = v_reset (hard reset) or 0."""
        start = self.rule.v_reset if self.rule.reset == "hard" else 0.0
        return (torch.full_like(current, start, requires_grad=False),)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v,) after it."""
        s, v = self.rule.step(current, state[0], self.fire)
        return s, (v,)

    def fire(self, u: Tensor) -> Tensor:
        """Return the dense spikes of u = h - θ."""
        return self.surrogate.dense(u, strict=self.rule.strict)

    def explain(self, currents: Tensor) -> Choice:
        """Return which backend runs these currents, and why.

        Raises:
            ValueError: The backend asked for cannot run them.
        """
        if self.backend == "triton":
            if not self._is_fused:
                told = "a delayed or soft spike, or a step of one's own"
                raise ValueError(f"backend 'triton' has no kernel for {told}")
            if currents.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
                raise ValueError("backend 'triton' needs currents on a CUDA device")
            return Choice("triton", "as asked")
        if not self._is_fused:
            return super().explain(currents)
        if self.backend == "eager":
            return Choice("eager", "as asked")
        choice = super().explain(currents)
        compiling = torch.compiler.is_compiling()
        if self.backend == "auto" and choice.backend == "reference" and not compiling:
            return Choice("eager", choice.reason)
        return choice

    @property
    def _is_fused(self) -> bool:
        """Whether the rule has functions of its own over all steps; else only its step."""
        if self.rule.reset_delay or not getattr(self.surrogate, "spiking", True):
            return False
        return type(self) in {LIF, IF} or self._is_a(LIF)

    def _is_built(self, dtype: torch.dtype) -> bool:
        if not self._is_fused:
            return super()._is_built(dtype)
        return is_built(self.rule, kept_for(self.rule, self.saving), dtype)

    def _build(self, dtype: torch.dtype) -> Any:
        if not self._is_fused:
            return super()._build(dtype)
        return lif_kernels(self.rule, kept_for(self.rule, self.saving), dtype)

    def _over_time(self, currents: Tensor, state: State) -> tuple[Tensor, State]:
        backend = self.explain(currents).backend
        if backend == "reference" or not self._is_fused:
            return super()._over_time(currents, state)
        if backend == "triton":
            kept = kept_for(self.rule, self.saving)
            run = kernels("_lif").lif
            spikes, v = run(currents, state[0], self.rule, kept=kept, spike_out=self.spike_out)
            return spikes, (v,)
        spikes, v = lif(
            currents, state[0], self.rule,
            saving=self.saving, compiled=backend == "compiled", spike_out=self.spike_out,
        )  # fmt: skip
        return spikes, (v,)

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        rule = self.rule
        told = [f"tau={self.tau}", f"threshold={rule.threshold}", f"{rule.reset} reset"]
        told += differing(self, but=frozenset({"tau", "threshold", "surrogate"}))
        return ", ".join([*told, f"surrogate={self.surrogate}"])


class IF(LIF):
    """Return the spikes of perfect integrators: h = v + x, fired and reset as in `LIF`.

    Args:
        options: Those of `LIF` but `tau`, `decay_input`, `v_leak` and `discretization`.

    Example:
        >>> IF(reset="soft")(torch.full((4, 1, 1), 0.75)).flatten()
        tensor([0., 1., 1., 1.])
    """

    _fixed = frozenset({"tau", "decay_input", "v_leak", "discretization"})

    def __init__(self, **options: Any) -> None:
        if fixed := options.keys() & self._fixed:
            raise TypeError(f"IF has no leak, so it takes no {', '.join(sorted(fixed))}")
        super().__init__(tau=math.inf, decay_input=False, **options)
