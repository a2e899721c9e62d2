"""Gradients are such that no growth should be tried."""

from dataclasses import dataclass

import numpy as np

from neuro_morph._arguments import check_least
from neuro_morph._triggers._trigger import Traces, Vote


@dataclass(frozen=True)
class GradientHealth:
    """Forbids growth when gradients are not finite, have vanished or explode.

    The median norm of the last ``window`` steps is compared with that of all before them.

    Args:
        window: steps.
        ceiling: how many times larger is an explosion.
        floor: how much of it is left when it has vanished.

    Raises:
        ValueError: if ``window`` is below 1, ``ceiling`` not above 1, or ``floor`` not between 0
            and 1.
    """

    window: int = 20
    ceiling: float = 10.0
    floor: float = 1e-3
    name: str = "gradient health"

    def __post_init__(self) -> None:
        check_least(1, window=self.window)
        if not self.ceiling > 1.0 or not 0.0 < self.floor < 1.0:
            raise ValueError(
                "ceiling must be above 1 and floor between 0 and 1, got "
                f"{self.ceiling!r} and {self.floor!r}"
            )

    def vote(self, traces: Traces) -> Vote:
        """Returns a veto, or nothing."""
        held = np.asarray(traces.gradient_norm, dtype=np.float64)
        last, past = held[-self.window :], held[: -self.window]
        if not np.isfinite(last).all():
            return Vote(self.name, False, "the gradient is not finite", veto=True)
        past = past[np.isfinite(past)]
        if not len(past):
            return Vote(self.name, False, "too few steps seen")
        ratio = float(np.median(last)) / max(float(np.median(past)), 1e-300)
        reason = f"the gradient's norm is {ratio:.2g} times that of before"
        return Vote(self.name, False, reason, veto=not self.floor <= ratio <= self.ceiling)
