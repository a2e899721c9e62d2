"""Policies that look at the input, at the loss or at the time that has passed."""

import math
from dataclasses import dataclass

import numpy as np

from rank_sched._finite import quantity
from rank_sched._numbers import number, number_in, whole
from rank_sched._observation import EVERY_RANK, Bounds, Observation, read_table
from rank_sched._policy import own_state


@dataclass(frozen=True)
class Fixed:
    """Wants one rank, always.

    Attributes:
        rank: That rank.
    """

    rank: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", whole("rank", self.rank))

    def init(self, bounds: Bounds) -> None:
        """Return None: there is nothing to remember."""

    def decide(self, state: None, observation: Observation) -> tuple[float, None]:
        """Return the rank."""
        del state, observation
        return float(self.rank), None


@dataclass(frozen=True)
class Complexity:
    """Wants more rank for harder inputs: r_min + s(x)^gamma·(r_max - r_min).

    Needs `Observation.complexity`.

    Attributes:
        gamma: 1 is proportional; below 1 the rank rises early, above 1 late.

    >>> policy = Complexity(gamma=2.0)
    >>> policy.decide(policy.init(Bounds(4, 64)), Observation(complexity=0.5))[0]
    19.0
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", quantity("gamma", self.gamma, zero=False))

    def init(self, bounds: Bounds) -> Bounds:
        """Return the bounds."""
        return bounds

    def decide(self, state: Bounds, observation: Observation) -> tuple[float, Bounds]:
        """Return the rank for this complexity."""
        state = own_state(state, Bounds, by="complexity")
        complexity = observation.need("complexity", by="complexity")
        share: float = number_in("complexity", complexity, 0.0, 1.0) ** self.gamma
        return state.r_min + share * (state.r_max - state.r_min), state


@dataclass(frozen=True)
class LossBound:
    """Wants the smallest rank whose loss is within a bound; the largest if none is.

    Needs `Observation.loss_curve`. Exactly one of the two options must be given.

    Attributes:
        max_loss: The bound, in the unit of the loss curve.
        max_loss_share: The bound as a share of the largest loss of the curve, which is that of
            the smallest rank for any curve that falls.

    >>> policy = LossBound(max_loss_share=0.1)
    >>> curve = Observation(loss_curve=[10.0, 4.0, 1.0, 0.5, 0.0])
    >>> policy.decide(policy.init(Bounds(1, 4)), curve)[0]
    2.0
    """

    max_loss: float | None = None
    max_loss_share: float | None = None

    def __post_init__(self) -> None:
        if (self.max_loss is None) == (self.max_loss_share is None):
            raise ValueError(
                f"exactly one of max_loss and max_loss_share must be given, got {self}"
            )
        if self.max_loss is not None:
            object.__setattr__(self, "max_loss", number("max_loss", self.max_loss))
        if self.max_loss_share is not None:
            share = number_in("max_loss_share", self.max_loss_share, 0.0, 1.0)
            object.__setattr__(self, "max_loss_share", share)

    def init(self, bounds: Bounds) -> Bounds:
        """Return the bounds."""
        return bounds

    def decide(self, state: Bounds, observation: Observation) -> tuple[float, Bounds]:
        """Return the rank for this loss curve."""
        state = own_state(state, Bounds, by="loss_bound")
        curve = observation.need("loss_curve", by="loss_bound")
        ranks, losses = read_table("loss_curve", curve, state)
        good = np.flatnonzero(losses <= self._limit(observation))
        return float(ranks[good[0] if good.size else -1]), state

    def _limit(self, observation: Observation) -> float:
        if self.max_loss is not None:
            return self.max_loss
        assert self.max_loss_share is not None
        curve = observation.need("loss_curve", by="loss_bound")
        whole_curve = read_table("loss_curve", curve, EVERY_RANK)[1]
        return self.max_loss_share * float(whole_curve.max())


@dataclass(frozen=True)
class LinearAnneal:
    """Goes from one rank to another in equal steps: start + (end - start)·min(step/steps, 1).

    Needs `Observation.step`, which `RankScheduler` counts.

    Attributes:
        steps: The step at which the end is reached.
        start: The first rank, by default r_max.
        end: The last rank, by default r_min.

    >>> policy = LinearAnneal(steps=10)
    >>> state = policy.init(Bounds(4, 64))
    >>> [policy.decide(state, Observation(step=step))[0] for step in (0, 5, 10, 99)]
    [64.0, 34.0, 4.0, 4.0]
    """

    steps: int
    start: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("steps", self.steps, at_least=1))
        for name in ("start", "end"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name)))

    def init(self, bounds: Bounds) -> Bounds:
        """Return the bounds."""
        return bounds

    def decide(self, state: Bounds, observation: Observation) -> tuple[float, Bounds]:
        """Return the rank for this step."""
        state = own_state(state, Bounds, by=self._name)
        step = whole("step", observation.need("step", by=self._name))
        start = state.r_max if self.start is None else self.start
        end = state.r_min if self.end is None else self.end
        return start + (end - start) * self._gone(min(step / self.steps, 1.0)), state

    _name = "linear_anneal"

    def _gone(self, time: float) -> float:
        """Return the share of the way that is behind at a share of the time."""
        return time


@dataclass(frozen=True)
class CosineAnneal(LinearAnneal):
    """Goes from one rank to another along half a cosine: slowly at both ends.

    The share of the way behind is (1 - cos(π·min(step/steps, 1)))/2. Options and needs are those
    of `LinearAnneal`.

    >>> policy = CosineAnneal(steps=4)
    >>> state = policy.init(Bounds(0, 100))
    >>> [round(policy.decide(state, Observation(step=step))[0]) for step in range(5)]
    [100, 85, 50, 15, 0]
    """

    _name = "cosine_anneal"

    def _gone(self, time: float) -> float:
        return (1 - math.cos(math.pi * time)) / 2
