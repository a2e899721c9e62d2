"""The network learns its training data by heart: more units would make it worse."""

from dataclasses import dataclass

from neuro_morph._arguments import check_least
from neuro_morph._triggers._trends import slope_of
from neuro_morph._triggers._trigger import Traces, Vote


@dataclass(frozen=True)
class GeneralizationGap:
    """Forbids growth while the held-out loss certainly leaves the training loss behind.

    Args:
        window: measurements that the slope of the gap is taken over.
        tolerance: a gap below this part of the training loss forbids nothing.

    Raises:
        ValueError: if ``window`` is below 8 or ``tolerance`` negative.
    """

    window: int = 12
    tolerance: float = 0.1
    name: str = "generalization gap"

    def __post_init__(self) -> None:
        check_least(8, window=self.window)
        check_least(0, tolerance=self.tolerance)

    def vote(self, traces: Traces) -> Vote:
        """Returns a veto, or nothing."""
        pairs = list(zip(traces.validation, traces.training, strict=True))[-self.window :]
        if len(pairs) < self.window:
            return Vote(self.name, False, f"{len(pairs)} of {self.window} measurements")
        gap = slope_of([v - t for v, t in pairs], blocks=len(pairs), confidence=0.995)
        level = sum(t for _, t in pairs) / len(pairs)
        wide = gap.level > self.tolerance * abs(level)
        reason = f"the gap is {gap.level:.3g} and changes by {gap.value:.2g} a measurement"
        return Vote(self.name, False, reason, veto=wide and gap.low > 0.0)
