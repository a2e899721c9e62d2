"""The units are all in use: there is no room for more information."""

from dataclasses import dataclass
from statistics import median

from neuro_morph._arguments import check_least, check_share
from neuro_morph._triggers._trigger import Traces, Vote


@dataclass(frozen=True)
class Information:
    """Asks for growth when the effective rank of the units has come near their number.

    Args:
        threshold: the part of the width, of the median of the last ``window`` measurements.
        window: measurements.

    Raises:
        ValueError: if ``threshold`` is not between 0 and 1 or ``window`` below 1.

    Source: Maile et al., when, where and how to add new neurons (AutoML 2022): growth while the
    rank of the activations keeps up with the width.
    """

    threshold: float = 0.85
    window: int = 5
    name: str = "information"

    def __post_init__(self) -> None:
        check_share(threshold=self.threshold)
        check_least(1, window=self.window)

    def vote(self, traces: Traces) -> Vote:
        """Returns what it says of the rank of the units."""
        held = traces.used_rank[-self.window :]
        if len(held) < self.window:
            return Vote(self.name, False, f"{len(held)} of {self.window} measurements")
        used = median(held)
        return Vote(self.name, used >= self.threshold, f"{used:.0%} of the width is in use")
