"""Growth at fixed intervals."""

from dataclasses import dataclass

from neuro_morph._arguments import check_least
from neuro_morph._triggers._trigger import Traces, Vote


@dataclass(frozen=True)
class Period:
    """Asks for growth at every ``every``-th step.

    Raises:
        ValueError: if ``every`` is below 1.
    """

    every: int
    name: str = "period"

    def __post_init__(self) -> None:
        check_least(1, every=self.every)

    def vote(self, traces: Traces) -> Vote:
        """Returns what it says of the number of steps."""
        step = len(traces.loss)
        return Vote(self.name, step > 0 and step % self.every == 0, f"step {step}")
