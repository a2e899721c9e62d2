"""The loss hardly falls any more."""

from dataclasses import dataclass

import numpy as np

from neuro_morph._arguments import check_least, check_share
from neuro_morph._triggers._trends import slope_of
from neuro_morph._triggers._trigger import Traces, Vote


@dataclass(frozen=True)
class Plateau:
    """Asks for growth when the loss falls at less than a part of its first pace.

    The pace is the relative Theil-Sen slope, ``-slope / level``, of the first and of the last
    ``window`` steps. It has to be certain that the pace has fallen: the largest pace the last
    window allows is compared with ``tau`` times the first. A loss that never fell asks for
    nothing: what is wrong there is not the size.

    Args:
        window: steps that a slope is taken over.
        tau: the part of the first pace.

    Raises:
        ValueError: if ``window`` is below 8 or ``tau`` not between 0 and 1.
    """

    window: int = 200
    tau: float = 0.2
    name: str = "plateau"

    def __post_init__(self) -> None:
        check_least(8, window=self.window)
        check_share(tau=self.tau)

    def vote(self, traces: Traces) -> Vote:
        """Returns what it says of the loss."""
        loss = traces.loss
        if len(loss) < 2 * self.window:
            return Vote(self.name, False, f"{len(loss)} of {2 * self.window} steps seen")
        if (
            not np.isfinite(loss[: self.window]).all()
            or not np.isfinite(loss[-self.window :]).all()
        ):
            return Vote(self.name, False, "the loss is not finite")
        first, last = slope_of(loss[: self.window]), slope_of(loss[-self.window :])
        if first.high >= 0 or first.level <= 0 or last.level <= 0:
            return Vote(self.name, False, "the loss did not fall at first")
        pace, now = -first.value / first.level, -last.low / last.level
        reason = f"the loss falls by at most {now:.2g} a step, {pace:.2g} at first"
        return Vote(self.name, now < self.tau * pace, reason)
