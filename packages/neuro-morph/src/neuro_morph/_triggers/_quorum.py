"""Votes of triggers joined, and when they do not count."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from neuro_morph._triggers._trigger import Traces, Trigger, Vote


@dataclass(frozen=True)
class Decision:
    """Whether to grow now.

    Attributes:
        grow: whether.
        votes: what every trigger said.
        blocked: why growth is out of the question, None if it is not.
    """

    grow: bool
    votes: tuple[Vote, ...]
    blocked: str | None = None

    @property
    def reason(self) -> str:
        """What asks for growth, or stands against it."""
        asked = "; ".join(f"{v.name}: {v.reason}" for v in self.votes if v.grow)
        return self.blocked or asked or "no trigger asks for growth"


@dataclass(frozen=True)
class Quorum:
    """Joins the votes of triggers.

    Args:
        triggers: the triggers.
        needed: how many have to ask for growth.
        last_part: the part of the run at its end in which nothing grows: new weights need time.

    Raises:
        ValueError: if ``needed`` is not from 1 to the number of triggers, names repeat, or
            ``last_part`` is not in [0, 1).
    """

    triggers: Sequence[Trigger]
    needed: int = 1
    last_part: float = 0.25

    def __post_init__(self) -> None:
        names = [trigger.name for trigger in self.triggers]
        if len(set(names)) < len(names):
            raise ValueError(f"triggers must have names of their own, got {', '.join(names)}")
        if not 1 <= self.needed <= len(self.triggers):
            raise ValueError(f"needed must be in 1..{len(self.triggers)}, got {self.needed!r}")
        if not 0.0 <= self.last_part < 1.0:
            raise ValueError(f"last_part must be in [0, 1), got {self.last_part!r}")

    def decide(
        self, traces: Traces, *, since: int | None = None, pause: int = 0, total: int | None = None
    ) -> Decision:
        """Returns whether to grow after the steps that are in the traces.

        Args:
            traces: what was seen.
            since: steps since the last growth or attempt; None if there was none.
            pause: steps that have to lie between.
            total: steps that the run will have; None if that is not known.
        """
        step = len(traces.loss)
        if total is not None and step > (1.0 - self.last_part) * total:
            return Decision(False, (), f"the last {self.last_part:.0%} of the run has begun")
        if since is not None and since < pause:
            return Decision(False, (), f"{since} of {pause} steps since the last attempt")
        if traces.loss and not isfinite(traces.loss[-1]):
            return Decision(False, (), f"the loss is {traces.loss[-1]}")
        votes = tuple(trigger.vote(traces) for trigger in self.triggers)
        vetoes = [f"{vote.name}: {vote.reason}" for vote in votes if vote.veto]
        if vetoes:
            return Decision(False, votes, "; ".join(vetoes))
        return Decision(sum(vote.grow for vote in votes) >= self.needed, votes)
