"""What a LIF neuron is told: settings that may be changed later, and their ranges."""

import dataclasses
import math
from typing import Any, Literal

from spike_ops._checked import finite, number
from spike_ops.neuron._base import Neuron
from spike_ops.neuron._lif_fused import Saving
from spike_ops.neuron._lif_rule import LifRule
from spike_ops.surrogate import Surrogate
from spike_ops.surrogate._base import check_surrogate

Discretization = Literal["euler", "exponential"]


class LifSettings(Neuron):
    """Neurons of a `LifRule` whose settings are properties of it.

    Setting one gives the neurons another rule, if it is in its range; the old one stays otherwise.
    """

    rule: LifRule
    saving: Saving
    _tau: float
    # discretization, decay_input and v_leak, from which the rule's numbers follow
    _time: tuple[Discretization, bool, float | None]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "surrogate" and "rule" in self.__dict__:
            self._change(surrogate=value)  # which comes back here by the rule
        elif name == "rule":
            super().__setattr__("rule", value)
            self.__dict__["surrogate"] = value.surrogate
        else:
            super().__setattr__(name, value)

    def _change(self, **settings: Any) -> None:
        """Give the rule other settings, if they are in their ranges."""
        rule = dataclasses.replace(self.rule, **settings)
        check_lif(
            threshold=rule.threshold, v_reset=rule.v_reset, reset=rule.reset, saving=self.saving,
            surrogate=rule.surrogate,
        )  # fmt: skip
        self.rule = rule

    @property
    def tau(self) -> float:
        """Time constant τ in steps."""
        return self._tau

    @tau.setter
    def tau(self, tau: float) -> None:
        discretization, decay_input, leak = self._time
        beta = decay(tau, discretization)
        if leak is None:
            leak = self.rule.v_reset if self.rule.reset == "hard" else 0.0
        gain = 1 - beta if decay_input else 1.0
        self._change(beta=beta, gain=gain, offset=(1 - beta) * leak)
        self._tau = tau

    @property
    def decay_input(self) -> bool:
        """Whether the current is weighted by 1 - β."""
        return self._time[1]

    @decay_input.setter
    def decay_input(self, decay_input: bool) -> None:
        self._change(gain=1 - self.rule.beta if decay_input else 1.0)
        self._time = (self._time[0], decay_input, self._time[2])

    @property
    def discretization(self) -> Discretization:
        """How β follows from τ."""
        return self._time[0]

    @property
    def v_leak(self) -> float | None:
        """Where the membrane leaks to; None where that follows from the reset."""
        return self._time[2]

    @property
    def reset_delay(self) -> bool:
        """Whether the reset comes one step later."""
        return self.rule.reset_delay

    @property
    def threshold(self) -> float:
        """θ."""
        return self.rule.threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        self._change(threshold=threshold)

    @property
    def v_reset(self) -> Any:
        """Membrane after a hard reset, and where it begins."""
        return self.rule.v_reset

    @v_reset.setter
    def v_reset(self, v_reset: Any) -> None:
        self._change(v_reset=v_reset, **self._leak_to(v_reset))

    def _leak_to(self, v_reset: float) -> dict[str, float]:
        """Return the offset of a leak to another v_reset, where no other was given."""
        follows = self.rule.reset == "hard" and self._time[2] is None
        return {"offset": (1 - self.rule.beta) * v_reset} if follows else {}

    @property
    def detach_reset(self) -> bool:
        """Whether the spike in the reset is a constant in the backward pass."""
        return self.rule.detach_reset

    @detach_reset.setter
    def detach_reset(self, detach_reset: bool) -> None:
        self._change(detach_reset=detach_reset)

    @property
    def strict(self) -> bool:
        """Whether it fires for h > θ only."""
        return self.rule.strict

    @strict.setter
    def strict(self, strict: bool) -> None:
        self._change(strict=strict)


def decay(tau: float, discretization: Discretization, name: str = "tau") -> float:
    """Return β: 1 - 1/τ ("euler") or e^(-1/τ) ("exponential")."""
    if discretization not in {"euler", "exponential"}:
        raise ValueError(f"discretization must be euler or exponential, got {discretization!r}")
    number(**{name: tau})
    least = 1.0 if discretization == "euler" else 0.0
    if not (tau >= least and tau > 0):
        raise ValueError(f"{name} must be at least {least:g} steps ({discretization}), got {tau}")
    return 1 - 1 / tau if discretization == "euler" else math.exp(-1 / tau)


def check_lif(
    *, threshold: float, v_reset: float, reset: str, saving: str, surrogate: Surrogate
) -> None:
    """Raise unless the settings of a LIF neuron are in their ranges."""
    check_surrogate(surrogate)
    number(threshold=threshold)
    finite(v_reset=v_reset)
    if not (threshold > 0 and math.isfinite(threshold)):
        raise ValueError(f"threshold must be positive and finite, got {threshold}")
    if reset not in {"hard", "soft", "none"}:
        raise ValueError(f"reset must be hard, soft or none, got {reset!r}")
    if not v_reset < threshold:
        raise ValueError(f"v_reset must be below the threshold {threshold}, got {v_reset}")
    if saving == "8bit" and surrogate.signed:
        raise ValueError(f"saving='8bit' needs a derivative of one sign, got {surrogate}")
    if saving not in {"exact", "8bit"}:
        raise ValueError(f"saving must be exact or 8bit, got {saving!r}")
