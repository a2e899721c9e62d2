"""Many units are dead or saturated: those that are left are too few."""

from dataclasses import dataclass
from statistics import median

from neuro_morph._arguments import check_least, check_share
from neuro_morph._triggers._trigger import Traces, Vote


@dataclass(frozen=True)
class Saturation:
    """Asks for growth when a part of the units does nothing of its own.

    Args:
        threshold: the part, of the median of the last ``window`` measurements.
        window: measurements.

    Raises:
        ValueError: if ``threshold`` is not between 0 and 1 or ``window`` below 1.
    """

    threshold: float = 0.4
    window: int = 5
    name: str = "saturation"

    def __post_init__(self) -> None:
        check_share(threshold=self.threshold)
        check_least(1, window=self.window)

    def vote(self, traces: Traces) -> Vote:
        """Returns what it says of the units."""
        held = traces.saturated[-self.window :]
        if len(held) < self.window:
            return Vote(self.name, False, f"{len(held)} of {self.window} measurements")
        idle = median(held)
        return Vote(self.name, idle >= self.threshold, f"{idle:.0%} of the units are idle")
